//! How everything that goes wrong is said: in one line on standard error, with exit code 1.

use clap::error::ErrorKind;

/// An error and its causes.
pub fn line(error: &anyhow::Error) -> String {
    one_line(&format!("error: {error:#}"))
}

/// What is wrong with a command line; nothing when the help or the version was asked for, or no command was given at all,
/// where the help says more than a line could.
pub fn usage_line(error: &clap::Error) -> Option<String> {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        return None;
    }
    let text = error.to_string();
    let problem = text.split("\n\nUsage:").next().unwrap_or_default();
    let problem = problem.split("\n\nFor more information").next().unwrap_or_default();
    Some(one_line(problem).replace(" tip: ", "; "))
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use clap::Parser as _;
    use expect_test::expect;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = anyhow!("refused\n\n  by the peer").context("cannot connect");
        assert_eq!(line(&error), "error: cannot connect: refused by the peer");
    }

    #[test]
    fn wrong_command_lines_are_told_in_one_line() {
        let says = |args: &str| {
            let error = Cli::try_parse_from(args.split(' ')).expect_err("it is wrong");
            usage_line(&error).unwrap_or_else(|| "(help)".to_owned())
        };
        let all =
            ["conduit", "conduit --help", "conduit stta", "conduit stat", "conduit tap --to", "conduit stat po -o xml"];
        let all = all.map(|args| format!("{args}\n    {}\n", says(args))).concat();
        expect![[r#"
            conduit
                (help)
            conduit --help
                (help)
            conduit stta
                error: unrecognized subcommand 'stta'; some similar subcommands exist: 'install', 'stat'
            conduit stat
                error: the following required arguments were not provided: <RESOURCE>...
            conduit tap --to
                error: a value is required for '--to <RESOURCE>' but none was supplied
            conduit stat po -o xml
                error: invalid value 'xml' for '--output <OUTPUT>' [possible values: table, wide, json, csv]
        "#]]
        .assert_eq(&all);
    }
}
