//! What goes wrong, as HTTP says it: a status, and `{"code": "NOT_FOUND", "message": "…"}`.

use axum::{
    body::Body,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::BODY_BYTES_MAX;

/// What is refused before anybody is asked. Its status is not the one that [`CODES`] has for its code.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    /// Of what, for the document of the API.
    pub(crate) reason: fn() -> String,
}

pub(crate) const FOREIGN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: Code::PermissionDenied,
    reason: || "Another page's `Origin`".to_owned(),
};
pub(crate) const MISNAMED: Refusal = Refusal {
    status: StatusCode::MISDIRECTED_REQUEST,
    code: Code::PermissionDenied,
    reason: || "A name in `Host` that this server does not go by".to_owned(),
};
pub(crate) const NOT_ALLOWED: Refusal = Refusal {
    status: StatusCode::METHOD_NOT_ALLOWED,
    code: Code::InvalidArgument,
    reason: || "Another HTTP method than the path has".to_owned(),
};
pub(crate) const NOT_JSON: Refusal = Refusal {
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    code: Code::InvalidArgument,
    reason: || "No `content-type: application/json`".to_owned(),
};
pub(crate) const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    code: Code::OutOfRange,
    reason: || format!("A question of more than {} KiB", BODY_BYTES_MAX / 1024),
};

/// All that a described path may be refused by.
pub(crate) const UNASKED: &[Refusal] = &[FOREIGN, MISNAMED, NOT_JSON, TOO_LARGE];

impl Refusal {
    pub(crate) fn respond(&self, message: impl Into<String>) -> Response {
        refusal(self.status, &to_json(&Status::new(self.code, message)))
    }
}

/// An error that a handler answers with.
pub(crate) struct Failure(pub(crate) Status);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        refusal(http_status(self.0.code()), &to_json(&self.0))
    }
}

/// An answer whose body is an error.
pub(crate) fn refusal(status: StatusCode, error: &Value) -> Response {
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// An error as it stands in bodies and streams.
pub(crate) fn to_json(status: &Status) -> Value {
    json!({ "code": name(status.code()), "message": status.message() })
}

/// Which status belongs to which code, as [google.rpc.Code](https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto) says.
pub(crate) const CODES: &[(Code, &str, StatusCode)] = &[
    (Code::Ok, "OK", StatusCode::OK),
    (Code::Cancelled, "CANCELLED", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::Unknown, "UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT),
    (Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND),
    (Code::AlreadyExists, "ALREADY_EXISTS", StatusCode::CONFLICT),
    (Code::PermissionDenied, "PERMISSION_DENIED", StatusCode::FORBIDDEN),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS),
    (Code::FailedPrecondition, "FAILED_PRECONDITION", StatusCode::BAD_REQUEST),
    (Code::Aborted, "ABORTED", StatusCode::CONFLICT),
    (Code::OutOfRange, "OUT_OF_RANGE", StatusCode::BAD_REQUEST),
    (Code::Unimplemented, "UNIMPLEMENTED", StatusCode::NOT_IMPLEMENTED),
    (Code::Internal, "INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::Unavailable, "UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
    (Code::DataLoss, "DATA_LOSS", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::Unauthenticated, "UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
];

fn http_status(code: Code) -> StatusCode {
    entry(code).2
}

pub(crate) fn name(code: Code) -> &'static str {
    entry(code).1
}

fn entry(code: Code) -> &'static (Code, &'static str, StatusCode) {
    &CODES[code as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_where_their_numbers_say() {
        for (at, (code, _, _)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, at);
        }
        // No code of gRPC is greater; a number that is none is UNKNOWN.
        assert_eq!(Code::from(CODES.len() as i32), Code::Unknown);
    }
}
