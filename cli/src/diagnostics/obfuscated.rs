//! Metrics without names that say whose they are. Pure, but for a key that is drawn once.

use std::hash::{BuildHasher as _, RandomState};

/// Labels whose values are words of ours, or numbers.
const KEPT: [&str; 15] = [
    "classification",
    "direction",
    "error",
    "grpc_status_code",
    "le",
    "no_tls_reason",
    "parent_port",
    "peer",
    "quantile",
    "reason",
    "state",
    "status_code",
    "tls",
    "version",
    "voter",
];

/// The same value becomes the same within one run, and something else in the next: nobody can try out names.
#[derive(Default)]
pub(super) struct Obfuscation(RandomState);

impl Obfuscation {
    /// Instead of a name.
    pub(super) fn of(&self, value: &str) -> String {
        format!("{:016x}", self.0.hash_one(value))
    }

    /// A line of Prometheus' text format.
    pub(super) fn line(&self, line: &str) -> String {
        let Some((name, mut rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) else {
            return line.to_owned();
        };
        let mut obfuscated = format!("{name}{{");
        while let Some((label, after)) = rest.split_once("=\"") {
            let end = end(after);
            let value = &after[..end];
            let is_kept = value.is_empty() || KEPT.contains(&label.trim_start_matches(','));
            let value = if is_kept { value.to_owned() } else { self.of(value) };
            obfuscated.extend([label, "=\"", &value, "\""]);
            rest = after.get(end + 1..).unwrap_or_default();
            if rest.starts_with('}') {
                break;
            }
        }
        obfuscated + rest
    }
}

/// Where a value ends: at the first quote that is none of its own.
fn end(value: &str) -> usize {
    let mut is_escaped = false;
    let end = value.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_something_else_and_the_rest_is_as_it_was() {
        let obfuscation = Obfuscation::default();
        let [web, odd] = ["web", r#"a\"b,c=\"d}"#].map(|value| obfuscation.of(value));
        assert_ne!(web, odd);
        for (line, expected) in [
            ("# HELP a b{c=\"d\"}", "# HELP a b{c=\"d\"}".to_owned()),
            ("up 1", "up 1".to_owned()),
            (r#"a{tls="true",dst_pod="web",le="0.1"} 3"#, format!(r#"a{{tls="true",dst_pod="{web}",le="0.1"}} 3"#)),
            (r#"a{x="a\"b,c=\"d}",y=""} 1 # {z="1"} 2"#, format!(r#"a{{x="{odd}",y=""}} 1 # {{z="1"}} 2"#)),
            (r#"a{x="web"#, format!(r#"a{{x="{web}""#)),
        ] {
            assert_eq!(obfuscation.line(line), expected);
        }
        assert_ne!(Obfuscation::default().of("web"), web, "nobody can try out names");
    }
}
