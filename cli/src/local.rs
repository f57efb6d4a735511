//! The local mesh: the same programs as in a cluster, as ordinary processes on one Linux machine.
//!
//! ```text
//!   conduit local up ──► supervisor (a network of its own) ──┬─► controller-0, -1, -2   each in its own network namespace
//!          ▲                   │ platform.json               └─► pod: redirect rules, then proxy + application
//!          └── supervisor.sock ┘     └──► the leading controller ──► every proxy
//! ```
//!
//! Nothing of it touches the host's network. It ends with its supervisor, however that ends.

pub mod authority;
pub mod client;
pub mod directory;
pub mod dns;
pub mod enter;
pub mod inventory;
pub mod manifest;
pub mod process;
pub mod server;
pub mod supervisor;
pub mod up;

use std::path::PathBuf;

use clap::Subcommand;

use self::directory::MeshDirectory;

/// Of all identities in a local mesh.
const TRUST_DOMAIN: &str = "cluster.local";

/// What can be done with the local mesh.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Start a mesh on this machine
    Up(up::Args),
    /// Stop it
    Down(client::DownArgs),
    /// Show its processes
    Status(client::StatusArgs),
    /// Set the number of instances of a deployment
    Scale(client::ScaleArgs),
    /// The supervisor, as `up` starts it.
    #[command(hide = true)]
    Supervise(supervisor::Args),
    /// A program in a pod, as the supervisor starts it.
    #[command(hide = true)]
    Enter(enter::Args),
}

/// Where the mesh keeps what it keeps.
#[derive(Clone, Debug, clap::Args)]
pub struct DirectoryArgs {
    /// Where the mesh keeps its state [default: $XDG_STATE_HOME/conduit/local]
    #[arg(long, env = "CONDUIT_LOCAL_DIR", value_name = "DIRECTORY")]
    pub dir: Option<PathBuf>,
}

impl DirectoryArgs {
    /// The directory meant.
    ///
    /// # Errors
    /// When none is given, and there is no home to have a default in.
    pub fn resolve(&self) -> anyhow::Result<MeshDirectory> {
        MeshDirectory::resolve(self.dir.as_deref())
    }
}

impl LocalCommand {
    /// Does it. `namespace` is the one given on the command line.
    ///
    /// # Errors
    /// In words for the person who typed it.
    pub fn run(&self, namespace: Option<&str>) -> anyhow::Result<()> {
        match self {
            Self::Up(args) => up::run(args),
            Self::Down(args) => client::down(args),
            Self::Status(args) => client::status(args),
            Self::Scale(args) => client::scale(args, namespace),
            Self::Supervise(args) => supervisor::run(args),
            Self::Enter(args) => enter::run(args),
        }
    }
}
