//! `conduit completion`: what a shell needs to know to complete our command lines.

use std::io::Write;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::args::Cli;

/// Of which shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// bash, zsh, fish or powershell
    shell: String,
}

/// Writes the shell's script.
///
/// # Errors
/// For any other shell, or when `out` cannot be written.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let supported = match args.shell.as_str() {
        "bash" => Some(Shell::Bash),
        "zsh" => Some(Shell::Zsh),
        "fish" => Some(Shell::Fish),
        "powershell" => Some(Shell::PowerShell),
        _ => None,
    };
    let shell = supported
        .with_context(|| format!("unsupported shell type (must be bash, zsh, fish or powershell): {}", args.shell))?;
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "conduit", &mut script);
    out.write_all(&script)?;
    Ok(())
}
