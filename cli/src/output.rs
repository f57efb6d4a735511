//! Which form a command writes.

use clap::ValueEnum;

/// `-o` of the commands that write a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For people who want to know more
    Wide,
    /// For programs
    Json,
}

/// `-o` of the commands that have nothing more to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TableOrJson {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// A value as people and programs can both read it.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_json(out: &mut impl std::io::Write, value: &impl serde::Serialize) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    out.write_all(format!("{text}\n").as_bytes())
}
