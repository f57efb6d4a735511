//! `conduit raft`: the replicas of the control plane.

mod recover;
mod snapshot;

use std::io::Write;

use anyhow::bail;
use conduit_api::proto::public::{MemberRequest, RaftMember, RaftStatusRequest, RaftStatusResponse};
use serde::Serialize;

use crate::{
    control_plane::ControlPlane,
    local::{DirectoryArgs, client},
    output::{TableOrJson, write_json},
    printable::printable,
    table::{Align, Table},
};

/// What to look at.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show leader, term, and how far each replica is
    Status(StatusArgs),
    /// Add and remove replicas
    Members {
        /// Which way.
        #[command(subcommand)]
        command: Members,
    },
    /// Make another replica the leader
    Transfer(Member),
    /// Go on with what one replica has, when a majority is gone for good
    Recover(recover::Args),
    /// Keep the replicated state in a file, and bring it back
    Snapshot {
        /// Which way.
        #[command(subcommand)]
        command: snapshot::Command,
    },
}

/// What can be done with the replicas.
#[derive(Debug, clap::Subcommand)]
pub enum Members {
    /// Start one more replica; it joins by itself
    Add(Add),
    /// Remove a replica for good
    Remove(Remove),
}

/// Nothing more is to be said: replicas are numbered.
#[derive(Debug, clap::Args)]
pub struct Add {
    #[command(flatten)]
    directory: DirectoryArgs,
}

/// Which one.
#[derive(Debug, clap::Args)]
pub struct Remove {
    #[command(flatten)]
    member: Member,
    #[command(flatten)]
    directory: DirectoryArgs,
}

/// A replica.
#[derive(Debug, clap::Args)]
pub struct Member {
    /// Name or id, as `conduit raft status` shows them
    #[arg(value_name = "REPLICA")]
    member: String,
}

/// How it is shown.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Asks the first replica that answers, which asks the others. `local` is whether the control plane is the one of the mesh
/// on this machine.
///
/// # Errors
/// When none answers, it refuses, or `out` cannot be written.
pub async fn run(
    command: &Command,
    control_plane: &ControlPlane,
    local: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        Command::Status(args) => status(args, control_plane, out).await,
        Command::Transfer(Member { member }) => {
            let request = MemberRequest { member: member.clone() };
            control_plane.ask(async |client| client.transfer_leader(request.clone()).await).await?;
            Ok(writeln!(out, "{member} leads")?)
        }
        Command::Recover(args) => recover::run(args, control_plane, out).await,
        Command::Snapshot { command } => snapshot::run(command, control_plane, out).await,
        Command::Members { command: Members::Add(_) } if !local => bail!(
            "replicas join by themselves when they are started with the seed and the addresses of the others: scale the \
             StatefulSet, or start another conduit-controller"
        ),
        Command::Members { command: Members::Add(Add { directory }) } => {
            let name = client::add_controller(directory).await?;
            Ok(writeln!(out, "{name} is a member")?)
        }
        Command::Members { command: Members::Remove(Remove { member: Member { member }, directory }) } => {
            if local {
                client::remove_controller(directory, member).await?;
            } else {
                let request = MemberRequest { member: member.clone() };
                control_plane.ask(async |client| client.remove_member(request.clone()).await).await?;
            }
            Ok(writeln!(out, "{member} is no member any more")?)
        }
    }
}

async fn status(args: &StatusArgs, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let status = control_plane.ask(async |client| client.raft_status(RaftStatusRequest {}).await).await?;
    match args.output {
        TableOrJson::Table => out.write_all(text(&status).as_bytes())?,
        TableOrJson::Json => write_json(out, &json(&status))?,
    }
    Ok(())
}

/// Name of a member by its id; the id itself when it is not among them.
fn name_of<'a>(status: &'a RaftStatusResponse, id: &'a str) -> &'a str {
    status.members.iter().find(|member| member.id == id).map_or(id, |member| &member.name)
}

fn text(status: &RaftStatusResponse) -> String {
    let leader = match status.leader_id.as_str() {
        "" => "no leader",
        id => &format!("leader {}", printable(name_of(status, id))),
    };
    let answered_by = printable(name_of(status, &status.answered_by));
    let header = format!("{leader}, term {}, revision {} (from {answered_by})", status.term, status.revision);
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("ID", Align::Left),
        ("ROLE", Align::Left),
        ("TERM", Align::Right),
        ("APPLIED", Align::Right),
        ("LAG", Align::Right),
        ("ADDRESS", Align::Left),
    ]);
    for member in &status.members {
        let answered = member.role != "unreachable";
        let figure = |value: u64| if answered { value.to_string() } else { "-".to_owned() };
        table.row([
            member.name.clone(),
            member.id.clone(),
            member.role.clone(),
            figure(member.term),
            figure(member.applied_index),
            member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            member.address.clone(),
        ]);
    }
    format!("{header}\n\n{table}")
}

#[derive(Serialize)]
struct Json<'a> {
    leader_id: &'a str,
    term: u64,
    revision: u64,
    answered_by: &'a str,
    members: Vec<JsonMember<'a>>,
}

#[derive(Serialize)]
struct JsonMember<'a> {
    name: &'a str,
    id: &'a str,
    role: &'a str,
    voter: bool,
    address: &'a str,
    term: u64,
    applied_index: u64,
    lag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

fn json(status: &RaftStatusResponse) -> Json<'_> {
    Json {
        leader_id: &status.leader_id,
        term: status.term,
        revision: status.revision,
        answered_by: &status.answered_by,
        members: status.members.iter().map(json_member).collect(),
    }
}

fn json_member(member: &RaftMember) -> JsonMember<'_> {
    JsonMember {
        name: &member.name,
        id: &member.id,
        role: &member.role,
        voter: member.voter,
        address: &member.address,
        term: member.term,
        applied_index: member.applied_index,
        lag: member.lag,
        pid: member.pid,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn status() -> RaftStatusResponse {
        let member = |index: u8, role: &str, applied_index, lag: Option<u64>| RaftMember {
            name: format!("controller-{index}"),
            id: format!("{:016x}", 0xa0 + u64::from(index)),
            role: role.into(),
            address: format!("10.244.0.1{index}:8300"),
            term: if lag.is_some() { 3 } else { 0 },
            applied_index,
            lag,
            pid: lag.map(|_| 4100 + u32::from(index)),
            voter: true,
        };
        RaftStatusResponse {
            leader_id: "00000000000000a1".into(),
            term: 3,
            revision: 98,
            answered_by: "00000000000000a0".into(),
            members: vec![
                member(0, "follower", 102, Some(2)),
                member(1, "leader", 104, Some(0)),
                member(2, "unreachable", 0, None),
            ],
        }
    }

    #[test]
    fn for_people() {
        expect![[r#"
            leader controller-1, term 3, revision 98 (from controller-0)

            NAME           ID                 ROLE          TERM   APPLIED   LAG   ADDRESS
            controller-0   00000000000000a0   follower         3       102     2   10.244.0.10:8300
            controller-1   00000000000000a1   leader           3       104     0   10.244.0.11:8300
            controller-2   00000000000000a2   unreachable      -         -     -   10.244.0.12:8300
        "#]]
        .assert_eq(&text(&status()));
        let leaderless = RaftStatusResponse { leader_id: String::new(), members: Vec::new(), ..status() };
        expect![[r#"
            no leader, term 3, revision 98 (from 00000000000000a0)

            NAME   ID   ROLE   TERM   APPLIED   LAG   ADDRESS
        "#]]
        .assert_eq(&text(&leaderless));
    }

    #[test]
    fn for_programs() {
        let mut status = status();
        status.members.drain(..1);
        expect![[r#"
            {
              "leader_id": "00000000000000a1",
              "term": 3,
              "revision": 98,
              "answered_by": "00000000000000a0",
              "members": [
                {
                  "name": "controller-1",
                  "id": "00000000000000a1",
                  "role": "leader",
                  "voter": true,
                  "address": "10.244.0.11:8300",
                  "term": 3,
                  "applied_index": 104,
                  "lag": 0,
                  "pid": 4101
                },
                {
                  "name": "controller-2",
                  "id": "00000000000000a2",
                  "role": "unreachable",
                  "voter": true,
                  "address": "10.244.0.12:8300",
                  "term": 0,
                  "applied_index": 0,
                  "lag": null
                }
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&json(&status)).unwrap());
    }
}
