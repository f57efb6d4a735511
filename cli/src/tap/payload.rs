//! Messages of gRPC, told apart by what is known of their services. Pure, but for reading the files that are given.

mod held;
mod inflate;
mod raw;
mod redact;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use conduit_api::{
    grpc,
    proto::tap::{
        TapEvent,
        tap_event::{Message, Schema},
    },
};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, prost::Message as _};
use serde_json::Value;

pub(super) use self::held::Held;
use self::inflate::Plain;

/// A descriptor set on the command line.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Of half of a megabyte at most, and some times that when it is read.
const POOLS_MAX: usize = 64;
/// Services of servers of which something is known. Past it some is forgotten, what is of no use first.
const TOLD_MAX: usize = 1024;
/// Services of which it is said that nothing describes them.
const NOTED_MAX: usize = 64;
/// Whose files everybody has already.
const WELL_KNOWN: &str = "google/protobuf/";

/// Of `google.protobuf.FileDescriptorSet`: encoded, since options that are not known yet would be lost otherwise.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) files: Vec<Vec<u8>>,
}

/// Of `google.protobuf.FileDescriptorProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct FileName {
    #[prost(string, tag = "1")]
    name: String,
}

/// What is known of services.
#[derive(Default)]
pub(super) struct Services {
    /// From the command line, which comes first.
    given: Option<DescriptorPool>,
    /// What their servers say, each of its own, or why there is nothing; by server and service.
    told: BTreeMap<(String, String), Described>,
    /// Of files by their digest: many servers have the same.
    pools: BTreeMap<Vec<u8>, Described>,
    /// Those of which somebody was told that nothing is known.
    noted: BTreeSet<String>,
    /// Without a schema fields are shown by their numbers.
    raw: bool,
}

type Described = Result<DescriptorPool, String>;

/// A message as it is shown.
#[derive(Debug, PartialEq)]
pub(super) enum Shown {
    /// With the names of its fields.
    Json(Value),
    /// By their numbers.
    Raw(Value),
    /// Not at all, and why.
    Hidden(String),
}

impl Services {
    /// Those that `sets` describe: files as `protoc --descriptor_set_out` writes them.
    pub(super) fn given(sets: &[PathBuf]) -> anyhow::Result<Self> {
        if sets.is_empty() {
            return Ok(Self::default());
        }
        let mut files = BTreeMap::new();
        for path in sets {
            let read = read_set(path).with_context(|| format!("cannot use the descriptor set {}", path.display()))?;
            files.extend(read);
        }
        let given = pool(files.into_values())
            .context("the descriptor sets do not describe services; write them with protoc --include_imports")?;
        Ok(Self { given: Some(given), ..Self::default() })
    }

    /// These; with `raw`, messages that none describes by the numbers of their fields, which may be what a schema would mark as not to be shown.
    pub(super) fn or_raw(self, raw: bool) -> Self {
        Self { raw, ..self }
    }

    /// What `server` says of a service of its own: another may be of another release, or lie.
    pub(super) fn learn(&mut self, server: &str, schema: &Schema) {
        let described = match schema.error.as_str() {
            "" => self.described(schema),
            error => Err(error.to_owned()),
        };
        let key = (server.to_owned(), schema.service.clone());
        // A server that does not answer once means what it meant; one that answers anew may be another release.
        if described.is_ok() || self.told.get(&key).is_none_or(Result::is_err) {
            self.tell(key, described);
        }
    }

    fn tell(&mut self, key: (String, String), described: Described) {
        if self.told.len() >= TOLD_MAX && !self.told.contains_key(&key) {
            let failed = self.told.iter().find(|(_, described)| described.is_err()).map(|(key, _)| key.clone());
            match failed {
                Some(failed) => drop(self.told.remove(&failed)),
                None => drop(self.told.pop_first()),
            }
        }
        self.told.insert(key, described);
    }

    /// Of this service, or else of all of this server's of which nothing is said.
    fn told(&self, server: &str, message: &Message) -> Option<&Described> {
        let told = self.told.get(&key(server, message));
        told.or_else(|| self.told.get(&(server.to_owned(), String::new())))
    }

    fn described(&mut self, schema: &Schema) -> Described {
        if let Some(known) = self.pools.get(&schema.digest) {
            return known.clone();
        }
        if schema.files.is_empty() {
            return Err("what its server says of it was lost on the way".to_owned());
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(format!("more than {POOLS_MAX} different schemas were told"));
        }
        let described = pool(schema.files.iter().cloned())
            .map_err(|error| format!("what its server says of it is of no use: {error}"));
        if !schema.digest.is_empty() {
            self.pools.insert(schema.digest.clone(), described.clone());
        }
        described
    }

    /// Nothing was said of the service of `message` in time.
    pub(super) fn give_up(&mut self, server: &str, message: &Message) {
        self.tell(key(server, message), Err("nothing was heard of it in time".to_owned()));
    }

    /// Whether it is known what `message` is, or that this will not be known.
    pub(super) fn is_decided(&self, server: &str, message: &Message) -> bool {
        self.told(server, message).is_some() || find(self.given.as_ref(), message).is_some()
    }

    /// Why messages of this service are not shown by name; once.
    pub(super) fn note(&mut self, server: &str, message: &Message) -> Option<String> {
        let service = service(&message.path);
        if self.descriptor(server, message).is_some()
            || self.noted.len() >= NOTED_MAX
            || !self.noted.insert(service.to_owned())
        {
            return None;
        }
        let why = match self.told(server, message) {
            Some(Err(why)) => why,
            _ => "the method is not among what is known of its service",
        };
        let (how, otherwise) = match self.raw {
            true => ("shown without the names of their fields", ""),
            false => ("not shown", ", or see fields by number with --raw"),
        };
        Some(format!(
            "note: messages of {service} are {how}: {why}. Describe it with --descriptor-set FILE (protoc --include_imports \
             --descriptor_set_out=FILE ...){otherwise}"
        ))
    }

    /// A message, without what is not to be shown.
    pub(super) fn show(&self, server: &str, message: &Message) -> Shown {
        let plain = match inflate::plain(message) {
            Ok(plain) => plain,
            Err(why) => return Shown::Hidden(why),
        };
        let Some(descriptor) = self.descriptor(server, message) else { return self.without_names(message, &plain) };
        let mut dynamic = DynamicMessage::new(descriptor.clone());
        // Of what is cut off as much is shown as there is.
        if let Err(error) = dynamic.merge(&*plain.bytes)
            && plain.is_whole
        {
            return Shown::Hidden(format!(
                "{} bytes, which are no {}: {error}",
                message.length,
                descriptor.full_name()
            ));
        }
        match written::json(&dynamic) {
            Ok(mut json) => {
                redact::redact(&mut json, &descriptor, &message.redact);
                Shown::Json(json)
            }
            Err(error) => Shown::Hidden(format!("{} bytes, which cannot be written as JSON: {error}", message.length)),
        }
    }

    /// Only a schema says which fields are not to be shown, and which numbers those have that the workload names.
    fn without_names(&self, message: &Message, plain: &Plain<'_>) -> Shown {
        let length = message.length;
        if !message.redact.is_empty() {
            return Shown::Hidden(format!("{length} bytes, some of which its workload does not let be shown"));
        }
        if !self.raw {
            return Shown::Hidden(format!("{length} bytes, which nothing describes"));
        }
        match raw::fields(&plain.bytes, !plain.is_whole) {
            Some(fields) => Shown::Raw(fields),
            None => Shown::Hidden(format!("{length} bytes, which are no message of protobuf")),
        }
    }

    fn descriptor(&self, server: &str, message: &Message) -> Option<MessageDescriptor> {
        let told = self.told(server, message).and_then(|told| told.as_ref().ok());
        find(self.given.as_ref(), message).or_else(|| find(told, message))
    }
}

fn find(pool: Option<&DescriptorPool>, message: &Message) -> Option<MessageDescriptor> {
    let (service, method) = grpc::method(&message.path)?;
    let method = pool?.get_service_by_name(service)?.methods().find(|known| known.name() == method)?;
    Some(if message.is_response { method.output() } else { method.input() })
}

/// Whose proxy says it.
pub(super) fn server(event: &TapEvent) -> String {
    let pod = event.destination.as_ref().and_then(|peer| peer.pod.as_ref());
    pod.map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name))
}

fn key(server: &str, message: &Message) -> (String, String) {
    (server.to_owned(), service(&message.path).to_owned())
}

/// `package.Service` of `/package.Service/Method`.
fn service(path: &str) -> &str {
    grpc::method(path).map_or("", |(service, _)| service)
}

fn read_set(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        bail!("it has more than {FILE_BYTES_MAX} bytes");
    }
    let set =
        FileSet::decode(fs::read(path)?.as_slice()).context("it is not what protoc --descriptor_set_out writes")?;
    set.files.into_iter().map(|file| Ok((FileName::decode(file.as_slice())?.name, file))).collect()
}

/// Of encoded files, in any order.
fn pool(files: impl Iterator<Item = Vec<u8>>) -> anyhow::Result<DescriptorPool> {
    let mut pool = DescriptorPool::global();
    let is_new = |file: &Vec<u8>| match FileName::decode(file.as_slice()) {
        Ok(FileName { name }) => !name.starts_with(WELL_KNOWN) || pool.get_file_by_name(&name).is_none(),
        Err(_) => true,
    };
    let set = FileSet { files: files.filter(is_new).collect() };
    pool.decode_file_descriptor_set(set.encode_to_vec().as_slice())?;
    Ok(pool)
}

#[cfg(test)]
mod tests;
