//! gRPC's status codes: their names, and whose fault they are.

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
