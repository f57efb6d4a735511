//! Amounts of CPU, memory and disk, as Kubernetes writes them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What may stand behind the number.
const SUFFIXES: [&str; 16] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// An amount that the API server accepts: `100m`, `20Mi`, `1.5`, `1e3`. Kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity(String);

/// Not an amount.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("not an amount; amounts are numbers with a unit, such as 100m (of a CPU) or 20Mi (of memory)")]
pub struct ParseQuantityError;

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(number);
        let is_number =
            number.bytes().any(|b| b.is_ascii_digit()) && number.bytes().filter(|b| *b == b'.').count() <= 1;
        let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i8>().is_ok());
        if is_number && (SUFFIXES.contains(&suffix) || exponent) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseQuantityError)
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Quantity {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_what_the_api_server_takes() {
        for right in ["1", "100m", "0.5", ".5", "1.", "20Mi", "1e3", "1E-3", "2E", "128974848"] {
            assert_eq!(right.parse::<Quantity>().map(|q| q.to_string()), Ok(right.to_owned()));
        }
        for wrong in ["", "m", "lots", "20MB", "-1", "1.2.3", "1 Mi", "1e", "."] {
            assert!(wrong.parse::<Quantity>().is_err(), "{wrong}");
        }
    }
}
