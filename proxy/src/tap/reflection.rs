//! Asking the application what its messages mean.
//!
//! By gRPC's server reflection, of which the two versions say the same:
//! <https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use conduit_api::{codec::SmallProstCodec, grpc};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::connect::Connector;

/// All of it: an application that reflects does so at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Of all files: large APIs have some hundred kilobytes.
const FILES_BYTES_MAX: usize = 512 * 1024;
/// A service that imports more is not described.
const FILES_MAX: usize = 256;
/// The newer version, and what most servers know.
const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// What everybody who decodes has already.
const WELL_KNOWN: &str = "google/protobuf/";

#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(oneof = "Asked", tags = "3, 4")]
    asked: Option<Asked>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Asked {
    #[prost(string, tag = "3")]
    FileByName(String),
    #[prost(string, tag = "4")]
    FileContainingSymbol(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(oneof = "Answered", tags = "4, 7")]
    answered: Option<Answered>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Answered {
    #[prost(message, tag = "4")]
    Files(Files),
    #[prost(message, tag = "7")]
    Refused(Refused),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Files {
    #[prost(bytes = "vec", repeated, tag = "1")]
    files: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refused {
    #[prost(string, tag = "2")]
    message: String,
}

/// The files that describe `service`, asked of the application at `address`.
///
/// # Errors
/// Why there are none, for people.
pub async fn files(connector: &Connector, address: SocketAddr, service: &str) -> Result<Vec<Vec<u8>>, String> {
    let asked = timeout(ANSWER_TIMEOUT, ask(connector, address, service)).await;
    asked
        .unwrap_or_else(|_| Err(format!("its server reflection did not answer within {ANSWER_TIMEOUT:?}")))
        .map_err(grpc::short_reason)
}

async fn ask(connector: &Connector, address: SocketAddr, service: &str) -> Result<Vec<Vec<u8>>, String> {
    let connector = connector.clone();
    let channel = Endpoint::from(Uri::from_static("http://application.conduit"))
        .connect_with_connector(service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move { connector.tcp(address).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error: tonic::transport::Error| format!("it cannot be connected to: {error}"))?;
    for path in PATHS {
        match follow(channel.clone(), path, service).await {
            Ok(files) => return Ok(files),
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(format!("its server reflection says: {}", status.message())),
        }
    }
    Err("it has no server reflection".to_owned())
}

/// The file that has `service`, and those that it imports, which not every server sends unasked.
async fn follow(channel: Channel, path: &'static str, service: &str) -> Result<Vec<Vec<u8>>, Status> {
    let (questions, stream) = mpsc::channel(1);
    let mut client = Grpc::new(channel).max_decoding_message_size(FILES_BYTES_MAX);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let send = async |asked| questions.send(Question { asked: Some(asked) }).await.map_err(|_| ended());
    send(Asked::FileContainingSymbol(service.to_owned())).await?;
    let request = tonic::Request::new(ReceiverStream::new(stream));
    let codec = SmallProstCodec::<Question, Answer>::default();
    let mut answers: Streaming<Answer> =
        client.streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner();
    let mut collected = Collected::default();
    loop {
        let answer = answers.message().await?.and_then(|answer| answer.answered).ok_or_else(ended)?;
        match collected.add(answer)? {
            Some(name) => send(Asked::FileByName(name)).await?,
            None => return Ok(collected.files),
        }
    }
}

fn ended() -> Status {
    Status::unavailable(io::Error::from(io::ErrorKind::UnexpectedEof).to_string())
}

/// What was sent so far.
#[derive(Default)]
struct Collected {
    files: Vec<Vec<u8>>,
    bytes: usize,
    /// Of these.
    names: BTreeSet<String>,
    /// Imported, and never asked for twice.
    missing: BTreeSet<String>,
    asked: BTreeSet<String>,
}

impl Collected {
    /// Takes an answer: the file to ask for next.
    fn add(&mut self, answer: Answered) -> Result<Option<String>, Status> {
        let files = match answer {
            Answered::Files(Files { files }) => files,
            Answered::Refused(refused) => return Err(Status::not_found(refused.message)),
        };
        let too_much = || {
            let message = format!("what describes it is more than {FILES_BYTES_MAX} bytes or {FILES_MAX} files");
            Status::resource_exhausted(message)
        };
        for file in files {
            let Ok(FileDescriptorProto { name: Some(name), dependency, .. }) =
                FileDescriptorProto::decode(file.as_slice())
            else {
                return Err(Status::internal("a file that is none"));
            };
            // Also of what came before.
            self.bytes += file.len();
            if self.bytes > FILES_BYTES_MAX || self.files.len() >= FILES_MAX || dependency.len() > FILES_MAX {
                return Err(too_much());
            }
            if !self.names.insert(name) {
                continue;
            }
            self.missing.extend(dependency.into_iter().filter(|name| !name.starts_with(WELL_KNOWN)));
            self.files.push(file);
        }
        self.missing.retain(|name| !self.names.contains(name) && !self.asked.contains(name));
        if self.missing.len() + self.asked.len() > FILES_MAX {
            return Err(too_much());
        }
        let next = self.missing.pop_first();
        self.asked.extend(next.clone());
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, imports: &[&str]) -> Vec<u8> {
        let dependency = imports.iter().map(|name| (*name).to_owned()).collect();
        FileDescriptorProto { name: Some(name.to_owned()), dependency, ..Default::default() }.encode_to_vec()
    }

    fn sent(files: Vec<Vec<u8>>) -> Answered {
        Answered::Files(Files { files })
    }

    #[test]
    fn what_is_imported_is_asked_for_unless_it_came() {
        let mut collected = Collected::default();
        let imports = ["b.proto", "c.proto", "google/protobuf/any.proto"];
        let first = sent(vec![file("a.proto", &imports), file("b.proto", &["d.proto"])]);
        assert_eq!(collected.add(first).unwrap().as_deref(), Some("c.proto"));
        assert_eq!(collected.add(sent(vec![file("c.proto", &["a.proto"])])).unwrap().as_deref(), Some("d.proto"));
        assert_eq!(collected.add(sent(vec![file("d.proto", &[])])).unwrap(), None);
        assert_eq!(collected.files.len(), 4);
    }

    #[test]
    fn what_is_refused_or_without_end_is_given_up() {
        let refused = Answered::Refused(Refused { message: "no such symbol".to_owned() });
        assert_eq!(Collected::default().add(refused).unwrap_err().message(), "no such symbol");
        assert!(Collected::default().add(sent(vec![vec![0xff]])).is_err());
        let mut endless = Collected::default();
        let mut answered = 0;
        while endless.add(sent(vec![file(&format!("{answered}"), &[&format!("{}", answered + 1)])])).is_ok() {
            answered += 1;
        }
        assert_eq!(answered, FILES_MAX);
        let names: Vec<_> = (0..=FILES_MAX).map(|name| name.to_string()).collect();
        let imports: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(Collected::default().add(sent(vec![file("all", &imports)])).is_err());
        // The same file again and again.
        let large = file(&"x".repeat(FILES_BYTES_MAX / 4), &[]);
        let mut again = Collected::default();
        assert!((0..4).any(|_| again.add(sent(vec![large.clone()])).is_err()));
    }
}
