//! The names of gRPC's status codes.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown() {
        for (code, expected) in
            [(0, "OK"), (2, "Unknown"), (16, "Unauthenticated"), (17, "Code(17)"), (666, "Code(666)")]
        {
            assert_eq!(status_name(code), expected);
        }
    }
}
