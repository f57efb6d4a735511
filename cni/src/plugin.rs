//! The plugin, by the CNI specification (0.3.0 to 1.1.0), as the last of a chain: whatever the others have made of a network goes through
//! unchanged. It asks its node's agent about pods that come, and about nothing else.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use clap::Parser as _;
use conduit_redirect::Rules;
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    VERSIONS,
    question::{Answer, LINE_BYTES_MAX, Question},
};

/// Of what the runtime says: it has what other plugins have said, which is short.
const INPUT_BYTES_MAX: u64 = 1 << 20;
/// The agent has asked the API server by then, or says that it could not.
const AGENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Codes of the specification.
const INCOMPATIBLE: u32 = 1;
const ENVIRONMENT: u32 = 4;
const IO: u32 = 5;
const DECODE: u32 = 6;
const CONFIGURATION: u32 = 7;
const TRY_AGAIN: u32 = 11;
/// Ours, from 100 on.
const REDIRECT: u32 = 100;

/// What the runtime is told when it did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: u32,
    message: String,
}

fn failure(code: u32, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// The entry in the network's configuration, with what the runtime adds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    cni_version: String,
    #[serde(default)]
    socket: String,
    #[serde(default)]
    exclude_namespaces: Vec<String>,
    prev_result: Option<Value>,
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    rules: Rules,
}

/// Does what the runtime wants: what is to be written to standard output, and whether it went well. May change the network namespace that
/// this thread is in.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: impl Read) -> (String, bool) {
    let mut text = String::new();
    let read = input.take(INPUT_BYTES_MAX).read_to_string(&mut text);
    let value: Result<Value, _> = serde_json::from_str(&text);
    let said = value.as_ref().ok().and_then(|value| value["cniVersion"].as_str());
    // Errors are said in the version of the question, where that is known.
    let version = said.filter(|version| VERSIONS.contains(version)).unwrap_or(VERSIONS[VERSIONS.len() - 1]).to_owned();
    let done = match (read, value) {
        // Whatever the configuration is by now: a DEL that fails is repeated for ever, and the pod stays.
        _ if variable("CNI_COMMAND").is_some_and(|command| command == "DEL") => {
            delete(&variable);
            Ok(None)
        }
        (Err(error), _) => Err(failure(IO, format!("cannot read the network's configuration: {error}"))),
        (_, Err(error)) => Err(failure(DECODE, format!("the network's configuration is not JSON: {error}"))),
        (_, Ok(value)) => carry_out(&variable, value),
    };
    match done {
        Ok(output) => (output.map(|output| output.to_string()).unwrap_or_default(), true),
        Err(Failure { code, message }) => {
            (json!({"cniVersion": version, "code": code, "msg": message}).to_string(), false)
        }
    }
}

fn carry_out(variable: &impl Fn(&str) -> Option<String>, value: Value) -> Result<Option<Value>, Failure> {
    let command = required(variable, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": value["cniVersion"], "supportedVersions": VERSIONS})));
    }
    let input: Input = serde_json::from_value(value)
        .map_err(|error| failure(DECODE, format!("the network's configuration is not understood: {error}")))?;
    if !VERSIONS.contains(&input.cni_version.as_str()) {
        let message = format!("version {} of CNI is none of {}", input.cni_version, VERSIONS.join(", "));
        return Err(failure(INCOMPATIBLE, message));
    }
    match command.as_str() {
        "ADD" => add(variable, input).map(Some),
        "CHECK" => check(variable, input).map(|()| None),
        // Pods whose namespaces are excluded have their network also while the agent is away: a node that reported itself as unable to
        // start pods would not start those by which it is to become able.
        "STATUS" => socket(&input).map(|_| None),
        // Nothing is kept anywhere but in the namespaces themselves.
        "GC" => Ok(None),
        _ => Err(failure(ENVIRONMENT, format!("CNI_COMMAND is {command}, which is not a command of CNI"))),
    }
}

fn required(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<String, Failure> {
    let value = variable(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| failure(ENVIRONMENT, format!("the variable {name} is not set")))
}

fn socket(input: &Input) -> Result<&str, Failure> {
    let socket = Some(input.socket.as_str()).filter(|socket| !socket.is_empty());
    socket.ok_or_else(|| failure(CONFIGURATION, "`socket`, where the agent is asked, is not configured"))
}

fn add(variable: &impl Fn(&str) -> Option<String>, mut input: Input) -> Result<Value, Failure> {
    required(variable, "CNI_CONTAINERID")?;
    let Some(mut result) = input.prev_result.take() else {
        return Err(failure(CONFIGURATION, "there is no prevResult: this plugin comes after one that makes a network"));
    };
    if let Some(arguments) = wanted(variable, &input)? {
        let rules = rules(&arguments)?;
        enter(&required(variable, "CNI_NETNS")?)?;
        conduit_redirect::apply(&rules).map_err(|error| {
            let advice = "the pod has a proxy, and does not start without its traffic going there";
            failure(REDIRECT, format!("Conduit: {error}; {advice}"))
        })?;
    }
    if let Some(result) = result.as_object_mut() {
        result.entry("cniVersion").or_insert_with(|| json!(input.cni_version));
    }
    Ok(result)
}

/// Whether the rules are there that ADD has made. Which ports they leave alone is not compared: the pod cannot change them.
fn check(variable: &impl Fn(&str) -> Option<String>, input: Input) -> Result<(), Failure> {
    if input.prev_result.is_none() {
        return Err(failure(CONFIGURATION, "there is no prevResult: this plugin comes after one that makes a network"));
    }
    if wanted(variable, &input)?.is_none() {
        return Ok(());
    }
    enter(&required(variable, "CNI_NETNS")?)?;
    match conduit_redirect::is_applied() {
        Ok(true) => Ok(()),
        Ok(false) => Err(failure(REDIRECT, "Conduit: the pod has a proxy, and nothing redirects its traffic there")),
        Err(error) => Err(failure(REDIRECT, format!("Conduit: {error}"))),
    }
}

/// Rules go with their namespace. It may have gone already, or its path lead to nothing any more, as after a restart of the node.
fn delete(variable: &impl Fn(&str) -> Option<String>) {
    let Some(path) = variable("CNI_NETNS").filter(|path| !path.is_empty()) else { return };
    if enter(&path).is_ok() {
        let _ = conduit_redirect::remove();
    }
}

/// What `conduit-proxy init` would be told in this pod, if its traffic is to be redirected.
fn wanted(variable: &impl Fn(&str) -> Option<String>, input: &Input) -> Result<Option<Vec<String>>, Failure> {
    let arguments = variable("CNI_ARGS").unwrap_or_default();
    let argument = |name: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned())
    };
    // Something else than a pod.
    let (Some(namespace), Some(name)) = (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) else {
        return Ok(None);
    };
    if input.exclude_namespaces.contains(&namespace) {
        return Ok(None);
    }
    let question = Question { namespace, name, uid: argument("K8S_POD_UID") };
    let socket = socket(input)?;
    match ask(socket, &question) {
        Ok(Answer::Redirect(arguments)) => Ok(Some(arguments)),
        Ok(Answer::Leave) => Ok(None),
        Ok(Answer::Unknown(reason)) => Err(failure(TRY_AGAIN, format!("Conduit: {reason}"))),
        Err(error) => Err(failure(
            TRY_AGAIN,
            format!(
                "Conduit: it is not known whether this pod's traffic is to be redirected, since its node's agent does not answer at {socket} \
                 ({error}); see the pod of the DaemonSet conduit-cni on this node. If Conduit is to be gone, remove `{}` from the plugins \
                 in the files of the node's CNI configuration, mostly /etc/cni/net.d",
                crate::PLUGIN
            ),
        )),
    }
}

fn ask(socket: &str, question: &Question) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(AGENT_TIMEOUT))?;
    stream.set_write_timeout(Some(AGENT_TIMEOUT))?;
    stream.write_all(format!("{}\n", serde_json::to_string(question)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn rules(arguments: &[String]) -> Result<Rules, Failure> {
    let arguments = std::iter::once("init").chain(arguments.iter().map(String::as_str));
    let parsed = Arguments::try_parse_from(arguments);
    // Agent and plugin are of one release, but for the moments of an upgrade.
    parsed
        .map(|parsed| parsed.rules)
        .map_err(|error| failure(TRY_AGAIN, format!("Conduit: the agent's answer: {error}")))
}

fn enter(path: &str) -> Result<(), Failure> {
    let refused = |error: String| failure(IO, format!("cannot enter the pod's network namespace, {path}: {error}"));
    let namespace = File::open(path).map_err(|error| refused(error.to_string()))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests;
