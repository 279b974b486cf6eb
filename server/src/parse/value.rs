//! From the text of an argument to JSON, by what the tool's schema allows.

use serde_json::Value;

use super::python;
use super::schema::{Allowed, Kinds};

/// The JSON of an argument. A text that is allowed stays to the letter; where other kinds are, it is
/// JSON if it holds such, else a literal of Python, else JSON with its quotes escaped once too often,
/// else a text.
pub(super) fn to_json(raw: &str, allowed: &Allowed) -> String {
    let trimmed = raw.trim();
    let parsed: Option<Value> = serde_json::from_str(trimmed).ok();
    if let Some(values) = &allowed.values {
        if values.iter().any(|value| value.as_str() == Some(raw)) {
            return text(raw);
        }
        if let Some(parsed) = &parsed
            && values.contains(parsed)
        {
            return trimmed.to_owned();
        }
    }
    let others = allowed.kinds.without(Kinds::STRING);
    if let Some(parsed) = &parsed
        && others.contains(Kinds::of(parsed))
    {
        return trimmed.to_owned();
    }
    if allowed.kinds.contains(Kinds::STRING) {
        return text(raw);
    }
    let inside = |value: &Value| {
        let text = value.as_str()?.trim();
        let inner: Value = serde_json::from_str(text).ok()?;
        others.contains(Kinds::of(&inner)).then(|| text.to_owned())
    };
    if let Some(parsed) = parsed {
        return inside(&parsed).unwrap_or_else(|| trimmed.to_owned());
    }
    if let Some(literal) = python::literal(trimmed) {
        return literal.to_string();
    }
    let unescaped = trimmed.replace("\\\"", "\"").replace("\\\\", "\\");
    match serde_json::from_str::<Value>(&unescaped) {
        Ok(value) => inside(&value).unwrap_or(unescaped),
        Err(_) => text(raw),
    }
}

/// A JSON string.
pub(super) fn text(raw: &str) -> String {
    Value::from(raw).to_string()
}

/// What stands between the quotes of a JSON string.
pub(super) fn escaped(raw: &str) -> String {
    let quoted = text(raw);
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::argument;
    use super::*;

    #[test]
    fn what_the_schema_allows_decides() {
        for (schema, raw, wanted) in [
            (json!({"type": "string"}), " 7\n", r#"" 7\n""#),
            (
                json!({"type": "integer"}),
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            (json!({"type": "integer"}), "1.5", "1.5"),
            (json!({"type": ["string", "integer"]}), "1.5", "\"1.5\""),
            (json!({"type": ["string", "integer"]}), "7", "7"),
            (json!({"type": "boolean"}), "True", "true"),
            (json!({"type": "object"}), "{'a': None}", r#"{"a":null}"#),
            (json!({"type": "array"}), r#"[{\"a\": 1}]"#, r#"[{"a": 1}]"#),
            (json!({"type": "number"}), "", "\"\""),
            (json!({"type": "string", "nullable": true}), "null", "null"),
            (json!(true), "plain", "\"plain\""),
            (json!(true), "[1, 2]", "[1, 2]"),
        ] {
            let root = json!({"properties": {"x": schema}});
            assert_eq!(to_json(raw, &argument(&root, "x", &[])), wanted, "{raw} by {schema}");
        }
        let unknown = argument(&json!({"properties": {}}), "x", &[]);
        assert_eq!(to_json("True", &unknown), "\"True\"");
    }
}
