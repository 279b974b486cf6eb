//! The tools that a request declares.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// The tools that the model may call. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    schemas: Arc<HashMap<String, Value>>,
}

/// A tool that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: found {found}, wanted {wanted}")]
pub struct ToolError {
    /// Path of what is wrong, such as `tools[2].function.name`.
    pub place: String,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub wanted: &'static str,
}

impl Tools {
    /// Longest name.
    pub const MAX_NAME: usize = 256;

    /// Of OpenAI's form, `{"type": "function", "function": {"name", "parameters"}}`, or the inner
    /// object alone.
    ///
    /// # Errors
    /// A tool without a name, two of the same name, or parameters that are no schema.
    pub fn new(tools: &[Value]) -> Result<Self, ToolError> {
        let mut schemas = HashMap::with_capacity(tools.len());
        for (index, tool) in tools.iter().enumerate() {
            let (function, place) = match tool.get("function") {
                Some(function) => (function, format!("tools[{index}].function")),
                None => (tool, format!("tools[{index}]")),
            };
            let name = function.get("name").and_then(Value::as_str).unwrap_or_default().trim();
            let wrong = |field: &str, found: String, wanted| ToolError {
                place: format!("{place}.{field}"),
                found,
                wanted,
            };
            let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '<' && c != '>';
            if name.is_empty() || name.len() > Self::MAX_NAME || !name.chars().all(allowed) {
                let found = function.get("name").map_or("nothing".into(), Value::to_string);
                let wanted = "a name of 1 to 256 bytes without white space and angle brackets";
                return Err(wrong("name", found, wanted));
            }
            let schema = match function.get("parameters") {
                None | Some(Value::Null) => Value::Bool(true),
                Some(schema @ (Value::Object(_) | Value::Bool(_))) => schema.clone(),
                Some(other) => {
                    return Err(wrong("parameters", other.to_string(), "a JSON schema"));
                }
            };
            if schemas.insert(name.to_owned(), schema).is_some() {
                return Err(wrong("name", format!("{name:?} again"), "a name for each tool"));
            }
        }
        Ok(Self { schemas: Arc::new(schemas) })
    }

    /// Whether there are none: then nothing is a call.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty()
    }

    /// Schema of the arguments of a tool.
    pub fn schema(&self, name: &str) -> Option<&Value> {
        self.schemas.get(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_are_read_and_what_is_wrong_is_named() {
        let schema = json!({"type": "object"});
        let tools = Tools::new(&[
            json!({"type": "function", "function": {"name": "a", "parameters": schema}}),
            json!({"name": "b"}),
        ]);
        let tools = tools.unwrap();
        assert_eq!(tools.schema("a"), Some(&schema));
        assert_eq!(tools.schema("b"), Some(&json!(true)));
        for (tool, wanted) in [
            (json!({"function": {}}), "tools[0].function.name: found nothing, wanted a name of"),
            (json!({"name": "a b"}), "tools[0].name: found \"a b\", wanted a name of"),
            (
                json!({"name": "a", "parameters": 3}),
                "tools[0].parameters: found 3, wanted a JSON schema",
            ),
        ] {
            let error = Tools::new(&[tool]).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
        let twice = Tools::new(&[json!({"name": "a"}), json!({"name": "a"})]).unwrap_err();
        assert_eq!(
            twice.to_string(),
            "tools[1].name: found \"a\" again, wanted a name for each tool"
        );
    }
}
