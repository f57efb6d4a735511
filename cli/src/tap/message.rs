//! A message of gRPC as people, and programs, read it. Pure.

use std::fmt::Write as _;

use conduit_api::{
    proto::tap::{TapEvent, tap_event::Message},
    text::cut,
};
use serde_json::Value;

use super::{Output, json, payload::Shown};
use crate::printable::printable;

/// Of one message: names and escapes may make it much longer than it was.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// `  > id=0:809 {...}` for what was asked, `  < ...` for what was answered, with the end of its lines.
pub(super) fn text(event: &TapEvent, message: &Message, shown: &Shown, output: &Output) -> anyhow::Result<String> {
    match output {
        Output::Json => return Ok(json::line(&json::message(event, message, shown))?),
        Output::JsonPath(template) => {
            let line = template.line(&serde_json::to_value(json::message(event, message, shown))?);
            return Ok(line.map_or_else(String::new, |line| line + "\n"));
        }
        Output::Line | Output::Short | Output::Wide => {}
    }
    let way = if message.is_response { '<' } else { '>' };
    let id = event.id.unwrap_or_default();
    let mut text = format!("  {way} id={}:{} ", id.base, id.stream);
    match shown {
        _ if message.is_last => text.push_str("(this message and those after it are not copied)"),
        Shown::Json(value) => text.push_str(&written(value, output)?),
        Shown::Raw(value) => write!(text, "by number: {}", written(value, output)?)?,
        Shown::Hidden(why) => write!(text, "({why})")?,
    }
    if !message.is_last && message.bytes.len() < message.length as usize {
        write!(text, " (cut off: {} of {} bytes)", message.bytes.len(), message.length)?;
    }
    // Only the line breaks are ours.
    let mut lines: String = text.lines().map(|line| printable(line).into_owned() + "\n    ").collect();
    lines.truncate(lines.trim_end().len());
    Ok(lines + "\n")
}

fn written(value: &Value, output: &Output) -> anyhow::Result<String> {
    let mut text =
        if matches!(output, Output::Wide) { serde_json::to_string_pretty(value)? } else { value.to_string() };
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(cut(&text, SHOWN_BYTES_MAX).len());
        text.push_str("...");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::tap::tap_event::{Id, Kind};
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn shown(message: &Message, shown: &Shown, output: &Output) -> String {
        let event = TapEvent {
            id: Some(Id { base: 0, stream: 809 }),
            kind: Some(Kind::Message(message.clone())),
            ..TapEvent::default()
        };
        text(&event, message, shown, output).unwrap()
    }

    fn message() -> Message {
        let path = "/emojivoto.v1.EmojiService/FindByShortcode".into();
        Message { number: 1, length: 4, bytes: vec![0; 4], path, ..Message::default() }
    }

    #[test]
    fn one_line_each_or_many_when_wide() {
        let json = Shown::Json(json!({"shortcode": ":joy:"}));
        let answer = Message { is_response: true, length: 9, ..message() };
        let last = Message { is_last: true, ..message() };
        let (raw, hidden) = (Shown::Raw(json!({"1": ":joy:"})), Shown::Hidden("4 bytes, compressed with gzip".into()));
        let text = [
            shown(&message(), &json, &Output::Line),
            shown(&answer, &json, &Output::Line),
            shown(&message(), &raw, &Output::Line),
            shown(&message(), &hidden, &Output::Line),
            shown(&last, &json, &Output::Line),
            shown(&message(), &json, &Output::Wide),
            shown(&message(), &json, &Output::Json),
        ];
        expect![[r#"
              > id=0:809 {"shortcode":":joy:"}
              < id=0:809 {"shortcode":":joy:"} (cut off: 4 of 9 bytes)
              > id=0:809 by number: {"1":":joy:"}
              > id=0:809 (4 bytes, compressed with gzip)
              > id=0:809 (this message and those after it are not copied)
              > id=0:809 {
                  "shortcode": ":joy:"
                }
            {"source":{"ip":null,"port":null,"metadata":{}},"destination":{"ip":null,"port":null,"metadata":{"tls":"???"}},"proxyDirection":"UNSPECIFIED","messageEvent":{"id":{"base":0,"stream":809},"direction":"request","path":"/emojivoto.v1.EmojiService/FindByShortcode","number":1,"length":4,"truncated":false,"message":{"shortcode":":joy:"}}}
        "#]]
        .assert_eq(&text.concat());
    }

    #[test]
    fn a_message_cannot_forge_a_line_and_has_a_bound() {
        let forged = Shown::Json(json!({"a": "\nend id=1:1 \u{9b}1m\u{1b}"}));
        let line = shown(&message(), &forged, &Output::Line);
        assert_eq!(line.trim_end().lines().count(), 1);
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let json = shown(&message(), &forged, &Output::Json);
        assert!(!json.trim_end().contains(char::is_control), "{json:?}");
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["messageEvent"]["message"]["a"], "\nend id=1:1 \u{9b}1m\u{1b}");
        let long = Shown::Json(json!({"a": "é".repeat(SHOWN_BYTES_MAX)}));
        assert!(shown(&message(), &long, &Output::Line).len() < SHOWN_BYTES_MAX + 100);
    }
}
