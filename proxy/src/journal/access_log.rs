//! A line of the access log. Pure.
//!
//! What a client says of itself stands between quotes, and what could end them, or the line, is escaped: nobody forges a line. Of a
//! request's fields only those that are named here are ever looked at: no credentials, no cookies.

use std::fmt::Write as _;

use conduit_api::{SpiffeId, journal::AccessLog};
use time::OffsetDateTime;

use super::Record;

/// The line of `record`, with its end; nothing where none is wanted.
pub fn line(format: AccessLog, record: &Record) -> String {
    match format {
        AccessLog::None => String::new(),
        AccessLog::Text => text(record),
        AccessLog::Json => json(record),
    }
}

/// Common Log Format, with the client's identity as its user and the time as RFC 3339 has it; then names and values of what is known.
fn text(record: &Record) -> String {
    let user = record.client.as_ref().map_or_else(|| "-".to_owned(), SpiffeId::to_string);
    let address = record.source.ip().to_canonical();
    let mut line = format!("{address} - {user} [{}] \"", Timestamp(record.started.into()));
    for (index, word) in [&*record.method, &*record.path, record.version].into_iter().enumerate() {
        if index > 0 {
            line.push(' ');
        }
        escape(&mut line, word);
    }
    line.push_str("\" ");
    match record.status {
        // Writing to a string does not fail.
        Some(status) => drop(write!(line, "{status}")),
        None => line.push('-'),
    }
    let _ = write!(line, " {}", record.response_bytes);
    for (name, value) in [("host", &record.authority), ("user_agent", &record.user_agent)] {
        if !value.is_empty() {
            let _ = write!(line, " {name}=\"");
            escape(&mut line, value);
            line.push('"');
        }
    }
    let milliseconds = record.duration.as_secs_f64() * 1_000.0;
    let _ = write!(line, " request_bytes={} duration_ms={milliseconds:.3}", record.request_bytes);
    if let Some(status) = record.grpc_status {
        let _ = write!(line, " grpc_status={status}");
    }
    if let Some(route) = &record.route {
        line.push_str(" route=\"");
        escape(&mut line, &route.path);
        line.push('"');
    }
    if let Some(trace_id) = record.trace_id {
        let _ = write!(line, " trace_id={trace_id:032x}");
    }
    if let Some(error) = record.error {
        let _ = write!(line, " error={error}");
    }
    line.push('\n');
    line
}

/// An object, with the names that Linkerd's has where it has them.
fn json(record: &Record) -> String {
    let mut object = Object(String::from("{"));
    object.text("timestamp", &Timestamp(record.started.into()).to_string());
    object.text("client.addr", &record.source.to_string());
    object.text("client.id", &record.client.as_ref().map(SpiffeId::to_string).unwrap_or_default());
    object.text("host", &record.authority);
    object.text("method", &record.method);
    object.text("uri", &record.path);
    object.text("version", record.version);
    object.number("status", record.status.map(u64::from));
    object.number("grpc_status", record.grpc_status.map(u64::from));
    object.number("request_bytes", Some(record.request_bytes));
    object.number("response_bytes", Some(record.response_bytes));
    let nanoseconds = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    object.number("processing_ns", record.to_head.map(nanoseconds));
    object.number("total_ns", Some(nanoseconds(record.duration)));
    object.text("user_agent", &record.user_agent);
    object.text("route", record.route.as_ref().map_or("", |route| &route.path));
    object.text("trace_id", &record.trace_id.map(|id| format!("{id:032x}")).unwrap_or_default());
    object.text("error", record.error.unwrap_or_default());
    let mut line = object.0;
    line.push_str("}\n");
    line
}

/// What is written of an object; values that are not there are left out.
struct Object(String);

impl Object {
    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.name(name);
            // The quotes are its own. A string is never refused.
            self.0.push_str(&serde_json::to_string(value).unwrap_or_default());
        }
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.name(name);
            let _ = write!(self.0, "{value}");
        }
    }

    fn name(&mut self, name: &str) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}\"{name}\":");
    }
}

/// As Apache escapes: quotes and backslashes, and by their bytes all that is not printable ASCII.
fn escape(line: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => line.extend(['\\', byte.into()]),
            b' '..=b'~' => line.push(byte.into()),
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

/// RFC 3339, in UTC, to the millisecond.
struct Timestamp(OffsetDateTime);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (at, month) = (self.0, u8::from(self.0.month()));
        write!(f, "{:04}-{month:02}-{:02}T", at.year(), at.day())?;
        write!(f, "{:02}:{:02}:{:02}.{:03}Z", at.hour(), at.minute(), at.second(), at.millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::record, *};

    #[test]
    fn a_line_of_text_begins_as_any_server_s_does() {
        assert_eq!(
            line(AccessLog::Text, &record()),
            "10.244.1.7 - spiffe://cluster.local/ns/shop/sa/web [2001-09-09T01:46:40.250Z] \"GET /books/42?page=2 HTTP/1.1\" \
             200 512 host=\"books.shop\" user_agent=\"curl/8.5\" request_bytes=3 duration_ms=12.500 route=\"/books/*\" \
             trace_id=0000000000000000000000000000beef\n"
        );
        let failed = Record {
            client: None,
            status: None,
            grpc_status: Some(14),
            user_agent: Box::default(),
            route: None,
            trace_id: None,
            error: Some("cancelled"),
            ..record()
        };
        assert_eq!(
            line(AccessLog::Text, &failed),
            "10.244.1.7 - - [2001-09-09T01:46:40.250Z] \"GET /books/42?page=2 HTTP/1.1\" - 512 host=\"books.shop\" \
             request_bytes=3 duration_ms=12.500 grpc_status=14 error=cancelled\n"
        );
    }

    #[test]
    fn a_line_of_json_is_one_object() {
        let line = line(AccessLog::Json, &record());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "timestamp": "2001-09-09T01:46:40.250Z",
                "client.addr": "10.244.1.7:40000",
                "client.id": "spiffe://cluster.local/ns/shop/sa/web",
                "host": "books.shop",
                "method": "GET",
                "uri": "/books/42?page=2",
                "version": "HTTP/1.1",
                "status": 200,
                "request_bytes": 3,
                "response_bytes": 512,
                "processing_ns": 2_500_000,
                "total_ns": 12_500_000,
                "user_agent": "curl/8.5",
                "route": "/books/*",
                "trace_id": "0000000000000000000000000000beef",
            })
        );
    }

    #[test]
    fn nobody_forges_a_line() {
        for said in
            ["\"\n10.0.0.1 - - [now] \"GET / HTTP/1.1\" 200 0\n", "\r\n\t\u{1b}[2J\u{7f}", "\\\"", "ü\u{2028}\u{85}"]
        {
            let forged = Record { path: said.into(), user_agent: said.into(), authority: said.into(), ..record() };
            let text = line(AccessLog::Text, &forged);
            assert!(
                text.ends_with('\n') && text.bytes().filter(|byte| !(b' '..=b'~').contains(byte)).count() == 1,
                "{text}"
            );
            let unescaped = text.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(unescaped.matches('"').count(), 8, "{text}");
            let json = line(AccessLog::Json, &forged);
            assert_eq!(json.matches('\n').count(), 1, "{json}");
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((&value["uri"], &value["host"]), (&said.into(), &said.into()));
        }
    }
}
