//! The table in a terminal, which is given back as it was.

use std::{io, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Style, Stylize as _},
    text::Line,
    widgets::{Cell, Row, Table},
};

use super::sums::Sums;
use crate::printable::printable;

/// Figures and methods: what is longer is no figure.
const FIGURE_WIDTH: u16 = 9;
/// Between columns.
const GAP: u16 = 2;

/// The terminal, as long as it is ours.
pub(super) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    /// Whether somebody has asked to end it since the last call.
    pub(super) fn is_to_close(&self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if matches!(event::read()?, Event::Key(key) if is_end(key)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn draw(&mut self, sums: &Sums) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame, sums)).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn is_end(key: KeyEvent) -> bool {
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn draw(frame: &mut Frame<'_>, sums: &Sums) {
    let rows = sums.rows();
    let [title, body] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(frame.area());
    let shown = usize::from(body.height.saturating_sub(1));
    let note = match rows.len() {
        0 => "waiting for requests".to_owned(),
        count if count > shown => format!("{} of {count} rows", shown),
        _ => String::new(),
    };
    let target = sums.target();
    frame.render_widget(
        Line::from(vec![printable(&target).into_owned().bold(), "   ".into(), note.into(), "   q quits".dim()]),
        title,
    );

    let hidden = usize::from(sums.hides_sources());
    let header = ["SOURCE", "DESTINATION", "METHOD", "PATH", "COUNT", "BEST", "WORST", "LAST", "SUCCESS"];
    let header = header.into_iter().enumerate().map(|(column, name)| cell(column, name.to_owned()));
    let lines = rows.iter().take(shown).map(|(key, row)| {
        let names = [&key.source, &key.destination, &key.method, &key.path].map(|name| printable(name).into_owned());
        let cells = names.into_iter().chain(row.figures()).enumerate().map(|(column, text)| cell(column, text));
        let style = if row.successes < row.count { Style::new().red() } else { Style::new() };
        Row::new(cells.skip(hidden)).style(style)
    });
    let widest = |name: fn(&super::sums::Key) -> &String, least: usize| {
        let widths = rows.iter().map(|(key, _)| name(key).chars().count());
        Constraint::Max(widths.max().unwrap_or_default().max(least) as u16)
    };
    let mut widths =
        vec![widest(|key| &key.source, 6), widest(|key| &key.destination, 11), widest(|key| &key.method, 6)];
    widths.push(Constraint::Fill(1));
    widths.extend([Constraint::Length(FIGURE_WIDTH); 5]);
    let table = Table::new(lines, widths.into_iter().skip(hidden)).column_spacing(GAP);
    frame.render_widget(table.header(Row::new(header.skip(hidden)).bold()), body);
}

/// Names stand left, figures right.
fn cell(column: usize, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if column < 4 { line } else { line.right_aligned() })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::sums::tests::some, *};

    fn screen(width: u16, height: u16, sums: &Sums) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, sums)).unwrap();
        let lines = terminal.backend().to_string();
        lines.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn what_is_seen() {
        expect![[r#"
            deployment/web      q quits

            SOURCE      DESTINATION    METHOD  PATH                      COUNT       BEST      WORST       LAST    SUCCESS
            deploy/web  deploy/voting  POST    /VoteDoughnut                 4      478µs     12.0ms      1.5ms     75.00%
            deploy/web  deploy/voting  POST    /Leader\u{1b}[2Jboar          1        3µs        3µs        3µs      0.00%
        "#]].assert_eq(&screen(110, 5, &some(false)));
        expect![[r#"
            deployment/web   1 of 2 rows   q quits

            DESTINATION    METHOD  PATH              COUNT       BEST      WORST       LAST    SUCCESS
            deploy/voting  POST    /VoteDoughnu          4      478µs     12.0ms      1.5ms     75.00%
        "#]]
        .assert_eq(&screen(90, 4, &some(true)));
    }

    #[test]
    fn no_screen_is_too_small() {
        for (width, height) in [(1, 1), (3, 2), (20, 3), (80, 1)] {
            screen(width, height, &some(false));
        }
        let none = Sums::new(Default::default(), false);
        assert!(screen(40, 3, &none).contains("waiting for requests"));
    }

    #[test]
    fn keys_that_end_it() {
        let key = |code, modifiers| is_end(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(key(KeyCode::Esc, KeyModifiers::NONE) && !key(KeyCode::Char('c'), KeyModifiers::NONE));
    }
}
