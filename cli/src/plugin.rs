//! Commands of others: `conduit foo` runs `conduit-foo`, as kubectl has it.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::CommandFactory as _;

use crate::args::Cli;

/// What `args` (without the program's name) asks for, if it is no flag and there is such a program on `path`.
fn find(args: &[OsString], path: &std::ffi::OsStr) -> Option<PathBuf> {
    let name = args.first()?.to_str()?;
    // Ours of these names are no commands; and what follows a command of ours is none of others.
    if ["controller", "proxy"].contains(&name) || Cli::command().find_subcommand(name).is_some() {
        return None;
    }
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !is_name || name.starts_with('-') {
        return None;
    }
    std::env::split_paths(path).map(|directory| directory.join(format!("conduit-{name}"))).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Becomes that program; returns if there is none, or why it could not be started.
pub fn run() -> Option<std::io::Error> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let program = find(&args, &std::env::var_os("PATH")?)?;
    Some(Command::new(program).args(&args[1..]).exec())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn only_programs_of_that_name_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        file("conduit-viz", 0o755);
        file("conduit-notes", 0o644);
        file("conduit-raft", 0o755);
        file("conduit-proxy", 0o755);
        let path = std::env::join_paths([Path::new("/nowhere"), directory.path()]).unwrap();
        let finds = |args: &[&str]| find(&args.iter().map(OsString::from).collect::<Vec<_>>(), &path).is_some();
        assert!(finds(&["viz"]) && finds(&["viz", "--help"]));
        for args in [
            &["notes"][..],
            &["gone"],
            &["raft", "viz"],
            &["proxy"],
            &["-n", "viz"],
            &["--viz"],
            &["../conduit-viz"],
            &[""],
            &[],
        ] {
            assert!(!finds(args), "{args:?}");
        }
    }
}
