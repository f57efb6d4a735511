//! Tables as Conduit has always printed them: columns as wide as their widest cell, three spaces between them.

use std::fmt;

use crate::printable::printable;

const GAP: &str = "   ";

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Names.
    Left,
    /// Figures.
    Right,
}

/// A header and rows. Its `Display` ends with a line end.
#[derive(Clone, Debug)]
pub struct Table {
    aligns: Vec<Align>,
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table that has only a header.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), lines: vec![header] }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| printable(&cell).into_owned()).collect();
        debug_assert_eq!(cells.len(), self.aligns.len());
        self.lines.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.aligns.len()).map(width).collect();
        for line in &self.lines {
            let cells = line.iter().zip(&self.aligns).zip(&widths).map(|((cell, align), &width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn names_stand_left_and_figures_right() {
        let mut table = Table::new(&[("NAME", Align::Left), ("RPS", Align::Right), ("ADDRESS", Align::Left)]);
        table.row(["a".to_owned(), "12.0rps".to_owned(), "x".to_owned()]);
        table.row(["grün\n".to_owned(), "-".to_owned(), String::new()]);
        expect![[r"
            NAME         RPS   ADDRESS
            a        12.0rps   x
            grün\n         -
        "]]
        .assert_eq(&table.to_string());
    }
}
