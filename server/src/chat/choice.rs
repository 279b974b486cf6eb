//! What an answer has to look like: a call of a tool, or a text of a form.

use serde_json::Value;

use crate::body::{Fields, found};
use crate::error::ApiError;
use crate::grammar::{Format, ToolForm};
use crate::limits;
use crate::parse::Tools;

/// Which tools the model calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// None.
    None,
    /// Those that it wants to.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    /// Takes `tool_choice` in OpenAI's forms.
    pub(crate) fn openai(value: Option<Value>) -> Result<Self, ApiError> {
        let wanted = "\"none\", \"auto\", \"required\" or a function's name in its object";
        let wrong = |value: &Value| ApiError::field("tool_choice", found(value), wanted);
        let Some(value) = value else { return Ok(Self::Auto) };
        match value.as_str() {
            Some("none") => return Ok(Self::None),
            Some("auto") => return Ok(Self::Auto),
            Some("required" | "any") => return Ok(Self::Required),
            Some(_) => return Err(wrong(&value)),
            None => {}
        }
        let name = value.pointer("/function/name").or(value.get("name")).and_then(Value::as_str);
        name.map(|name| Self::Named(name.to_owned())).ok_or_else(|| wrong(&value))
    }

    pub(super) fn check(&self, tools: &Tools) -> Result<(), ApiError> {
        match self {
            Self::Named(name) if tools.schema(name).is_none() => Err(ApiError::field(
                "tool_choice",
                format!("{name:?}"),
                "the name of one of the tools",
            )),
            Self::Required if tools.is_empty() => {
                Err(ApiError::field("tool_choice", "\"required\" without tools", "tools"))
            }
            _ => Ok(()),
        }
    }

    /// What the answer has to look like for the sake of calls.
    pub(super) fn format(
        &self,
        mut tools: Vec<ToolForm>,
        parallel: bool,
        text_has_a_form: bool,
    ) -> Option<Format> {
        let required = match self {
            Self::None => return None,
            Self::Auto => {
                // Only strict tools are held to their schemas where the model may call or not.
                let strict = tools.iter().any(|tool| tool.strict);
                if text_has_a_form || !strict {
                    return None;
                }
                false
            }
            Self::Required => true,
            Self::Named(name) => {
                tools.retain(|tool| tool.name == *name);
                true
            }
        };
        Some(Format::Calls { tools, required, parallel })
    }
}

/// The tools as a grammar takes them.
pub(super) fn forms(tools: &[Value]) -> Vec<ToolForm> {
    let form = |tool: &Value| {
        let function = tool.get("function")?;
        Some(ToolForm {
            name: function.get("name")?.as_str()?.to_owned(),
            parameters: function.get("parameters").cloned().unwrap_or_default(),
            strict: function.get("strict").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    tools.iter().filter_map(form).collect()
}

/// Takes `response_format`, or vLLM's `structured_outputs` and `guided_*`.
pub(crate) fn answer_format(fields: &mut Fields) -> Result<Option<Format>, ApiError> {
    let mut format = None;
    if let Some(mut asked) = fields.object("response_format")? {
        format = of_object(&mut asked)?;
    }
    let structured = fields.object("structured_outputs")?;
    let mut fields = match structured {
        Some(structured) => structured,
        None => return Ok(format),
    };
    if let Some(schema) = fields.take("json") {
        format = Some(Format::JsonSchema(schema_of(schema, &fields.place("json"))?));
    }
    if fields.flag("json_object")? == Some(true) {
        format = Some(Format::JsonObject);
    }
    if let Some(regex) = fields.text("regex")? {
        format = Some(Format::Regex(regex));
    }
    if let Some(grammar) = fields.text("grammar")? {
        format = Some(Format::Grammar(grammar));
    }
    let choices = fields.texts("choice", 1024, limits::GRAMMAR_BYTES)?;
    if !choices.is_empty() {
        format = Some(Format::Choice(choices));
    }
    Ok(format)
}

/// OpenAI's `{type: text | json_object | json_schema}`.
pub(crate) fn of_object(fields: &mut Fields) -> Result<Option<Format>, ApiError> {
    Ok(match fields.needed_text("type")?.as_str() {
        "text" => None,
        "json_object" => Some(Format::JsonObject),
        "json_schema" => {
            // In the Responses API the schema stands in the format itself.
            let (schema, place) = match fields.object("json_schema")? {
                Some(mut inner) => (inner.take("schema"), inner.place("schema")),
                None => (fields.take("schema"), fields.place("schema")),
            };
            let schema =
                schema.ok_or_else(|| ApiError::field(&place, "nothing", "a JSON schema"))?;
            Some(Format::JsonSchema(schema_of(schema, &place)?))
        }
        "regex" => Some(Format::Regex(fields.needed_text("pattern")?)),
        "grammar" => Some(Format::Grammar(fields.needed_text("grammar")?)),
        other => {
            let wanted = "\"text\", \"json_object\" or \"json_schema\"";
            return Err(ApiError::field(&fields.place("type"), format!("{other:?}"), wanted));
        }
    })
}

fn schema_of(schema: Value, place: &str) -> Result<Value, ApiError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema),
        // vLLM takes it as a text, too.
        Value::String(text) => serde_json::from_str(&text)
            .ok()
            .filter(|schema: &Value| schema.is_object())
            .ok_or_else(|| ApiError::field(place, "a text", "a JSON schema")),
        other => Err(ApiError::field(place, found(&other), "a JSON schema")),
    }
}
