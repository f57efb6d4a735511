//! `-o` of `conduit tap`. Pure.

use std::{ffi::OsStr, sync::Arc};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
    error::ErrorKind,
};

use super::json_path::Template;

/// Before a template.
const JSON_PATH: &str = "jsonpath=";

/// How requests are written.
#[derive(Clone, Debug)]
pub(super) enum Output {
    /// One line for each event.
    Line,
    /// One line for each request, when it has ended.
    Short,
    /// As the first, with the proxy, TLS, and who is at both ends.
    Wide,
    /// One JSON object on a line for each event.
    Json,
    /// What of that object is asked for.
    JsonPath(Arc<Template>),
}

/// Of what is on the command line.
#[derive(Clone)]
pub(super) struct OutputParser;

impl TypedValueParser for OutputParser {
    type Value = Output;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Output, Error> {
        let text = StringValueParser::new().parse_ref(command, arg, value)?;
        let wrong =
            |why: String| Error::raw(ErrorKind::ValueValidation, format!("-o {text}: {why}\n")).with_cmd(command);
        match text.as_str() {
            "line" => Ok(Output::Line),
            "short" => Ok(Output::Short),
            "wide" => Ok(Output::Wide),
            "json" => Ok(Output::Json),
            other => match other.strip_prefix(JSON_PATH) {
                Some(template) => match Template::parse(template) {
                    Ok(template) => Ok(Output::JsonPath(Arc::new(template))),
                    Err(error) => Err(wrong(error.to_string())),
                },
                None => {
                    Err(wrong("it is one of line, short, wide, json, and jsonpath={.source.ip} or the like".into()))
                }
            },
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = [
            PossibleValue::new("line").help("One line for each event"),
            PossibleValue::new("short").help("One line for each request, when it has ended"),
            PossibleValue::new("wide").help("With the proxy, TLS, and who is at both ends"),
            PossibleValue::new("json").help("One JSON object on a line for each event"),
            PossibleValue::new("jsonpath=TEMPLATE")
                .help("What of these objects is asked for, as kubectl has it: jsonpath={.source.ip}"),
        ];
        Some(Box::new(values.into_iter()))
    }
}
