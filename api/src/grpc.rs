//! gRPC's status codes: their names, and whose fault they are. Which method a request is for, by its path.

/// More than any service is called.
const NAME_BYTES_MAX: usize = 255;

/// More than a line of text says.
const REASON_CHARS_MAX: usize = 256;

/// What an application said of why it refused, no longer than people read.
pub fn short_reason(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

/// As Go prints them, which `conduit tap … | grep Unknown` relies on.
pub fn status_name(code: u32) -> String {
    // In the order of their numbers: <https://grpc.io/docs/guides/status-codes/>
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

/// Whether a status is the server's fault, and not the caller's: Unknown, DeadlineExceeded, Internal, Unavailable, DataLoss.
pub fn is_failure(code: u32) -> bool {
    matches!(code, 2 | 4 | 13 | 14 | 15)
}

/// The service and the method of `/package.Service/Method`; of paths that no definition could have, none. One answer for whoever copies, describes
/// and shows messages.
pub fn method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_in_name);
    (is_name(service) && is_name(method)).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_a_bound() {
        assert_eq!(short_reason("it is away".to_owned()), "it is away");
        let long = short_reason("é".repeat(1_000));
        assert_eq!(long.chars().count(), REASON_CHARS_MAX + 3);
        assert_eq!(short_reason("é".repeat(REASON_CHARS_MAX)).chars().count(), REASON_CHARS_MAX);
    }

    #[test]
    fn known_and_unknown() {
        for (code, expected) in
            [(0, "OK"), (2, "Unknown"), (16, "Unauthenticated"), (17, "Code(17)"), (666, "Code(666)")]
        {
            assert_eq!(status_name(code), expected);
        }
    }

    #[test]
    fn a_service_and_a_method_and_nothing_else() {
        assert_eq!(method("/emojivoto.v1.VotingService/Vote"), Some(("emojivoto.v1.VotingService", "Vote")));
        let long = format!("/{}/m", "a".repeat(NAME_BYTES_MAX + 1));
        let odd =
            ["", "/", "//", "/a", "/a/", "//b", "a/b", "/a/b/c", "/a//b", "//a/b", "/a/b?c", "/a\n/b", "/ä/b", &long];
        for path in odd {
            assert_eq!(method(path), None, "{path:?}");
        }
    }
}
