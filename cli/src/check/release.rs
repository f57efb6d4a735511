//! Which of two releases is the newer one.

/// The newer of both; `client` when there is only that, or when one of them is not of the form `v1.2.3`.
pub(super) fn newest<'a>(client: &'a str, server: Option<&'a str>) -> &'a str {
    match server.map(|server| (server, numbers(server), numbers(client))) {
        Some((server, Some(of_server), Some(of_client))) if of_server > of_client => server,
        _ => client,
    }
}

fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.strip_prefix('v')?.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_not_text() {
        for (client, server, expected) in [
            ("v0.1.0", None, "v0.1.0"),
            ("v0.1.0", Some("v0.1.0"), "v0.1.0"),
            ("v0.9.0", Some("v0.10.0"), "v0.10.0"),
            ("v1.0.0", Some("v0.10.0"), "v1.0.0"),
            ("v0.1.0", Some("dev-5f2c"), "v0.1.0"),
            ("v0.1.0", Some("v0.2.0.1"), "v0.1.0"),
        ] {
            assert_eq!(newest(client, server), expected, "{client} {server:?}");
        }
    }
}
