//! Which fields of messages nobody is shown, as annotations and variables say it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Names go with every message.
const NAMES_MAX: usize = 32;
/// In all of them.
const BYTES_MAX: usize = 1024;

/// Names or paths of fields, as in `password,card.number`: of that name anywhere, and at the end of such a path. `card_number` is `cardNumber`
/// as well, and keys of maps are names, which paths may leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Redacted(Vec<String>);

impl Redacted {
    /// Each of them.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl Redacted {
    /// These and `more`.
    ///
    /// # Errors
    /// When they are too many together.
    pub fn with(&self, more: &Self) -> Result<Self, ParseRedactedError> {
        let new = more.0.iter().filter(|name| !self.0.contains(name));
        self.0.iter().chain(new).cloned().collect::<Vec<_>>().join(",").parse()
    }
}

/// They are no such list.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "must be names of fields with commas between, as in password,card.number: {NAMES_MAX} or fewer, in {BYTES_MAX} bytes or fewer"
)]
pub struct ParseRedactedError;

impl FromStr for Redacted {
    type Err = ParseRedactedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(ToOwned::to_owned).collect();
        // The characters besides make no difference between names.
        let is_part = |part: &str| {
            part.contains(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        let is_name = |name: &String| name.split('.').all(is_part);
        let is_bounded = names.len() <= NAMES_MAX && text.len() <= BYTES_MAX;
        if is_bounded && names.iter().all(is_name) { Ok(Self(names)) } else { Err(ParseRedactedError) }
    }
}

impl TryFrom<String> for Redacted {
    type Error = ParseRedactedError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Redacted> for String {
    fn from(redacted: Redacted) -> Self {
        redacted.to_string()
    }
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_within_the_bound() {
        let list = |text: &str| text.parse::<Redacted>().unwrap();
        assert_eq!(list("a,b").with(&list("b,c")), Ok(list("a,b,c")));
        assert_eq!(list("").with(&list("")), Ok(list("")));
        let many = |prefix: &str| list(&(0..NAMES_MAX).map(|number| format!("{prefix}{number},")).collect::<String>());
        assert_eq!(many("a").with(&many("b")), Err(ParseRedactedError));
    }

    #[test]
    fn a_short_list_of_names() {
        let names: Redacted = " password, card.number,".parse().unwrap();
        assert_eq!(names.names(), ["password", "card.number"]);
        assert_eq!(names.to_string().parse(), Ok(names));
        assert_eq!("x-api-key,card_number".parse::<Redacted>().unwrap().names().len(), 2);
        for wrong in [
            "a b",
            "a\nb",
            ".",
            "a..b",
            ".a",
            "a.",
            "_",
            "a._",
            &"a,".repeat(NAMES_MAX + 1),
            &"a".repeat(BYTES_MAX + 1),
        ] {
            assert_eq!(wrong.parse::<Redacted>(), Err(ParseRedactedError), "{wrong}");
        }
    }
}
