//! What others chose, made safe for a terminal.

use std::borrow::Cow;

/// `text` with its control characters escaped: a path that somebody requested, or a name that somebody gave, must not move
/// the cursor or forge a line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(printable("/naïve?a=\\b"), "/naïve?a=\\b");
        assert_eq!(printable("/a\x1b[2J\r\nend\u{9b}1m"), "/a\\u{1b}[2J\\r\\nend\\u{9b}1m");
    }
}
