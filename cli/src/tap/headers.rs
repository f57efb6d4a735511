//! What a head says, in lines after the one of its request or response. Pure.

use std::fmt::Write as _;

use conduit_api::proto::tap::{
    TapEvent,
    tap_event::{Header, Kind},
};

use crate::printable::printable;

/// In the place of a value that nobody is shown.
const REDACTED: &str = "[redacted]";

/// `line`, and below it `  > id=0:809 accept: */*` for what was asked, `  < ...` for what was answered. Without the last line's end.
pub(super) fn with(line: Option<String>, event: &TapEvent) -> Option<String> {
    let mut lines = line?;
    let (way, headers) = match &event.kind {
        Some(Kind::RequestInit(init)) => ('>', &init.headers),
        Some(Kind::ResponseInit(init)) => ('<', &init.headers),
        _ => return Some(lines),
    };
    let id = event.id.unwrap_or_default();
    for header in headers {
        let line = format!("  {way} id={}:{} {}: {}", id.base, id.stream, header.name, value(header));
        write!(lines, "\n{}", printable(&line)).expect("a string can be written");
    }
    Some(lines)
}

fn value(header: &Header) -> String {
    if header.redacted { REDACTED.to_owned() } else { String::from_utf8_lossy(&header.value).into_owned() }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::{super::samples, *};

    #[test]
    fn lines_below_their_request() {
        let [mut request, _, end] = samples::exchange();
        let Some(Kind::RequestInit(init)) = &mut request.kind else { panic!("it is a request") };
        init.headers = vec![
            Header { name: "accept".into(), value: b"*/*".to_vec(), redacted: false },
            Header { name: "cookie".into(), value: Vec::new(), redacted: true },
            Header { name: "forged".into(), value: b"\xff\nend id=0:1".to_vec(), redacted: false },
        ];
        expect![[r#"
            req
              > id=0:809 accept: */*
              > id=0:809 cookie: [redacted]
              > id=0:809 forged: �\nend id=0:1"#]]
        .assert_eq(&with(Some("req".into()), &request).unwrap());
        assert_eq!(with(Some("end".into()), &end).as_deref(), Some("end"));
        assert_eq!(with(None, &request), None);
    }
}
