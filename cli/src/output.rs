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

/// `-o` of the commands whose figures go into spreadsheets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputOrCsv {
    /// For people
    #[default]
    Table,
    /// For people who want to know more
    Wide,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

/// A line of CSV, by RFC 4180.
pub fn csv_line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = |cell: &str| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    };
    let cells: Vec<_> = cells.into_iter().map(quoted).collect();
    format!("{}\r\n", cells.join(","))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        assert_eq!(csv_line(["web", "", "/a,b", "\"x\"", "1.5"]), "web,,\"/a,b\",\"\"\"x\"\"\",1.5\r\n");
    }
}
