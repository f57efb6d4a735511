//! The functions of helm that the chart's templates call, beside those that Go's templates have themselves.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gtmpl_ng::{Func, FuncError, Value};

/// By their names in templates. A template that calls another one is not parsed.
pub(crate) const FUNCTIONS: [(&str, Func); 7] = [
    ("b64enc", b64enc),
    ("int", int),
    ("nindent", nindent),
    ("omit", omit),
    ("quote", quote),
    ("toYaml", to_yaml),
    ("until", until),
];

/// `b64enc TEXT`: for the data of Secrets.
fn b64enc(arguments: &[Value]) -> Result<Value, FuncError> {
    let [text] = exactly("b64enc", arguments)?;
    Ok(BASE64_STANDARD.encode(text.to_string()).into())
}

/// `int NUMBER`: numbers of YAML files are fractions to helm.
fn int(arguments: &[Value]) -> Result<Value, FuncError> {
    let [number] = exactly("int", arguments)?;
    match number {
        Value::Number(number) => number.as_i64().map(Value::from),
        _ => None,
    }
    .ok_or_else(|| FuncError::Generic(format!("int: `{number}` is not an integer")))
}

/// `nindent COLUMNS TEXT`: the text on lines of its own.
fn nindent(arguments: &[Value]) -> Result<Value, FuncError> {
    let [columns, text] = exactly("nindent", arguments)?;
    let columns = natural("nindent", columns)?;
    let indented = text.to_string().split('\n').map(|line| format!("\n{:columns$}{line}", "")).collect::<String>();
    Ok(indented.into())
}

/// `omit MAP KEY ...`: the map without these keys.
fn omit(arguments: &[Value]) -> Result<Value, FuncError> {
    let Some((Value::Map(map) | Value::Object(map), keys)) = arguments.split_first() else {
        return Err(FuncError::Generic("omit: the first argument is not a map".to_owned()));
    };
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    let rest = map.iter().filter(|(key, _)| !keys.contains(key));
    Ok(Value::Map(rest.map(|(key, value)| (key.clone(), value.clone())).collect()))
}

/// `quote TEXT`: a string of YAML, whatever is in it.
fn quote(arguments: &[Value]) -> Result<Value, FuncError> {
    let [text] = exactly("quote", arguments)?;
    Ok(serde_json::Value::from(text.to_string()).to_string().into())
}

/// `toYaml VALUE`: its keys in order, without a line's end behind it.
fn to_yaml(arguments: &[Value]) -> Result<Value, FuncError> {
    let [value] = exactly("toYaml", arguments)?;
    let text = sorted(value).and_then(|value| serde_yaml_ng::to_string(&value));
    let text = text.map_err(|error| FuncError::Generic(format!("toYaml: {error}")))?;
    Ok(text.trim_end().into())
}

/// `until COUNT`: the list of 0 and what follows, below the count.
fn until(arguments: &[Value]) -> Result<Value, FuncError> {
    let [count] = exactly("until", arguments)?;
    Ok((0..natural("until", count)?).map(Value::from).collect::<Vec<_>>().into())
}

fn exactly<'a, const COUNT: usize>(function: &str, arguments: &'a [Value]) -> Result<&'a [Value; COUNT], FuncError> {
    arguments.try_into().map_err(|_| FuncError::ExactlyXArgs(function.to_owned(), COUNT))
}

fn natural(function: &str, number: &Value) -> Result<usize, FuncError> {
    let natural = match number {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        _ => None,
    };
    natural.ok_or_else(|| FuncError::Generic(format!("{function}: `{number}` is not a natural number")))
}

/// The engine keeps maps in no order.
fn sorted(value: &Value) -> Result<serde_yaml_ng::Value, serde_yaml_ng::Error> {
    match value {
        Value::Map(map) | Value::Object(map) => {
            let entries = map.iter().collect::<BTreeMap<_, _>>().into_iter();
            let entries = entries.map(|(key, value)| Ok((key.as_str().into(), sorted(value)?)));
            Ok(serde_yaml_ng::Value::Mapping(entries.collect::<Result<_, serde_yaml_ng::Error>>()?))
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => serde_yaml_ng::to_value(other),
    }
}

#[cfg(test)]
mod tests {
    use gtmpl_ng::{Context, Template};

    use super::*;

    fn rendered(template: &str, data: serde_json::Value) -> String {
        let mut engine = Template::default();
        engine.add_funcs(&FUNCTIONS);
        engine.parse(template).unwrap();
        engine.render(&Context::from(serde_json::from_value::<Value>(data).unwrap())).unwrap()
    }

    #[test]
    fn maps_are_written_in_order() {
        let resources = serde_json::json!({"requests": {"memory": "64Mi", "cpu": "50m"}, "limits": {"memory": 3}});
        let text = rendered("resources: {{- toYaml . | nindent 2 }}", resources);
        assert_eq!(text, "resources:\n  limits:\n    memory: 3\n  requests:\n    cpu: 50m\n    memory: 64Mi");
        assert_eq!(rendered("{{ toYaml . }}", serde_json::json!([{"b": 1, "a": true}])), "- a: true\n  b: 1");
    }

    #[test]
    fn what_is_omitted_is_left_out() {
        let map = serde_json::json!({"a": 1, "b": {"c": 2}, "d": "x"});
        assert_eq!(rendered("{{ omit . \"a\" \"d\" \"e\" | toYaml }}", map), "b:\n  c: 2");
        assert!(omit(&["text".into()]).is_err());
    }

    #[test]
    fn what_is_quoted_ends_where_it_ends() {
        assert_eq!(rendered("{{ quote . }}", serde_json::json!("a\"b\\c\nd: e")), r#""a\"b\\c\nd: e""#);
        assert_eq!(rendered("{{ printf \"%s:%d\" . 5 | quote }}", serde_json::json!("x")), "\"x:5\"");
    }

    #[test]
    fn counts_count() {
        assert_eq!(
            rendered("{{ range $i := until (int .) }}{{ if $i }},{{ end }}{{ $i }}{{ end }}", 3.into()),
            "0,1,2"
        );
        assert_eq!(rendered("{{ range until (int .) }}x{{ end }}", 0.into()), "");
        assert_eq!(rendered("{{ b64enc . }}", "pem\n".into()), "cGVtCg==");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert!(int(&["3".into()]).unwrap_err().to_string().contains("`3` is not an integer"));
        assert!(until(&[Value::from(-1)]).is_err());
        assert!(nindent(&["text".into()]).is_err());
    }
}
