//! JSON values as YAML in lines, the way Kubernetes' own tools write them, and as JSON.

use std::fmt::Write as _;

use serde_json::Value;

/// How something is to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    /// What ends a line.
    pub(super) line_end: &'a str,
    /// How much deeper than a key the dashes of its list are: 2, or 0 as Kubernetes' tools write them.
    pub(super) dashes: usize,
}

impl Layout<'_> {
    /// `key: value`, from this column on; a value in lines is `deeper` than the key. Ends with a line's end.
    pub(super) fn entry(self, out: &mut String, column: usize, key: &str, value: &Value, deeper: usize) {
        indent(out, column);
        self.rest_of_entry(out, column, key, value, deeper);
    }

    /// `- value`, with the dash in this column. Ends with a line's end.
    pub(super) fn element(self, out: &mut String, column: usize, value: &Value) {
        indent(out, column);
        out.push_str("- ");
        match value {
            Value::Object(entries) if !entries.is_empty() => self.entries(out, column + 2, value, false),
            Value::Array(elements) if !elements.is_empty() => {
                // A list in a list, which no pod has.
                out.push_str(&value.to_string());
                out.push_str(self.line_end);
            }
            _ => self.scalar(out, value),
        }
    }

    /// All entries of an object, or all elements of an array.
    pub(super) fn lines(self, out: &mut String, column: usize, value: &Value) {
        match value {
            Value::Array(elements) => elements.iter().for_each(|element| self.element(out, column, element)),
            _ => self.entries(out, column, value, true),
        }
    }

    /// `name` first: it says what the rest is of.
    fn entries(self, out: &mut String, column: usize, value: &Value, indent_first: bool) {
        let entries = || value.as_object().into_iter().flatten();
        let named = entries().filter(|(key, _)| *key == "name");
        let ordered = named.chain(entries().filter(|(key, _)| *key != "name"));
        for (index, (key, value)) in ordered.enumerate() {
            if index > 0 || indent_first {
                indent(out, column);
            }
            self.rest_of_entry(out, column, key, value, 2);
        }
    }

    fn rest_of_entry(self, out: &mut String, column: usize, key: &str, value: &Value, deeper: usize) {
        push_scalar(out, key);
        out.push(':');
        let below = match value {
            Value::Object(entries) if !entries.is_empty() => Some(column + deeper),
            // Four is said by somebody who wants four.
            Value::Array(elements) if !elements.is_empty() && deeper == 2 => Some(column + self.dashes),
            Value::Array(elements) if !elements.is_empty() => Some(column + deeper),
            _ => None,
        };
        match below {
            Some(below) => {
                out.push_str(self.line_end);
                self.lines(out, below, value);
            }
            None => {
                out.push(' ');
                self.scalar(out, value);
            }
        }
    }

    fn scalar(self, out: &mut String, value: &Value) {
        match value {
            Value::String(text) => push_scalar(out, text),
            // `{}` and `[]`, numbers, and the like.
            other => {
                let _ = write!(out, "{other}");
            }
        }
        out.push_str(self.line_end);
    }
}

fn indent(out: &mut String, mut column: usize) {
    const SPACES: &str = "                                ";
    while column > SPACES.len() {
        out.push_str(SPACES);
        column -= SPACES.len();
    }
    out.push_str(&SPACES[..column]);
}

/// A string as a plain scalar where nobody can take it for anything else, in double quotes otherwise.
pub(super) fn push_scalar(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        push_quoted(out, text);
    }
}

/// A string in double quotes. What JSON escapes, YAML escapes likewise.
pub(super) fn push_quoted(out: &mut String, text: &str) {
    let _ = write!(out, "{}", Value::from(text));
}

/// What YAML has words for, some of them in its first version only.
const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];

const WORD_BYTES_MAX: usize = 5;

/// Of each byte whether it may be in a plain scalar: most of what is written is looked at by it.
const ALLOWED: [bool; 256] = {
    let (mut allowed, mut byte) = ([false; 256], 0_u8);
    while byte < 128 {
        allowed[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'=' | b'@' | b'+' | b',' | b' ');
        byte += 1;
    }
    allowed
};

/// Rather too strict: quotes never hurt.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    // A letter that no number begins with.
    let begins = first.is_ascii_alphabetic() || *first == b'/';
    let word = || text.len() <= WORD_BYTES_MAX && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_pair = |pair: &[u8]| pair == b": ";
    begins
        && bytes.iter().all(|byte| ALLOWED[usize::from(*byte)])
        && !matches!(last, b':' | b' ')
        && !bytes.windows(2).any(is_pair)
        && !word()
}

/// JSON on one line, or, if it is to be in lines, with each indented by `step` more than the last, and `prefix` before all but the
/// first.
pub(super) fn json(value: &Value, lines: Option<(&str, usize)>, line_end: &str) -> String {
    let Some((prefix, step)) = lines else { return value.to_string() };
    let spaces = " ".repeat(step);
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        // Strings have no line breaks that are not escaped.
        Ok(()) => String::from_utf8_lossy(&out).replace('\n', &format!("{line_end}{prefix}")),
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn lines(value: &Value, dashes: usize) -> String {
        let mut out = String::new();
        Layout { line_end: "\n", dashes }.lines(&mut out, 0, value);
        out
    }

    #[test]
    fn values_look_as_people_write_them() {
        let value =
            json!({"env": [{"value": "443", "name": "PORT"}], "empty": {}, "args": ["init", "--x"], "name": "web"});
        assert_eq!(
            lines(&value, 0),
            "name: web\nargs:\n- init\n- \"--x\"\nempty: {}\nenv:\n- name: PORT\n  value: \"443\"\n"
        );
        assert_eq!(lines(&json!({"a": [{"b": [1]}]}), 2), "a:\n  - b:\n      - 1\n");
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[a-z0-9:,#~ -]{0,8}", "\\PC{0,6}", Just("true".to_owned()), Just("1e3".to_owned())];
        let leaf = prop_oneof![
            text.prop_map(Value::String),
            any::<i32>().prop_map(|number| json!(number)),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-z.:/ ]{1,6}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_what_it_was(value in values(), dashes in prop_oneof![Just(0usize), Just(2)]) {
            let object = json!({"value": value});
            let text = lines(&object, dashes);
            prop_assert_eq!(serde_yaml_ng::from_str::<Value>(&text).expect(&text), object);
        }
    }
}
