//! How an argument is written in GLM's form of calls: a text as it is, all else as JSON.

use serde_json::{Map, Value};

use super::GrammarError;

/// References that are followed one after the other.
const MOST_REFERENCES: usize = 32;
/// Schemas that are looked at for one argument.
const MOST_VISITS: usize = 1_000;

/// Ways to write an argument, each of them allowed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Form {
    /// Any text. Then the others say nothing: what is not theirs is a text.
    pub(super) text: bool,
    /// These, to the letter.
    pub(super) options: Vec<String>,
    /// JSON by one of these schemas, none of which is a text's.
    pub(super) schemas: Vec<Value>,
}

impl Form {
    const TEXT: Form = Form { text: true, options: Vec::new(), schemas: Vec::new() };

    /// By a schema, whose references begin at `root`.
    pub(super) fn of(schema: &Value, root: &Value) -> Self {
        let mut form = Form::default();
        form.add(schema, root, &mut 0);
        form
    }

    fn add(&mut self, schema: &Value, root: &Value, visits: &mut usize) {
        *visits += 1;
        let target = if *visits > MOST_VISITS { None } else { resolve(schema, root) };
        let Some(Value::Object(fields)) = target else {
            *self = Self::TEXT;
            return;
        };
        if let Some(values) = listed(fields) {
            self.options.extend(values.iter().map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }));
            return;
        }
        let branches = ["anyOf", "oneOf"].into_iter().find_map(|key| fields.get(key)?.as_array());
        match (kinds(fields).contains(&"string"), branches) {
            // Beside the branches there may be what holds for all of them.
            (true, Some(branches)) if is_plain(fields) => {
                branches.iter().for_each(|branch| self.add(branch, root, visits));
                if fields.get("nullable") == Some(&Value::Bool(true)) {
                    self.options.push("null".into());
                }
            }
            (true, _) => match fields.get("allOf").and_then(Value::as_array) {
                Some(parts) if !parts.is_empty() => {
                    let mut forms = parts.iter().map(|part| {
                        let mut form = Form::default();
                        form.add(part, root, visits);
                        form
                    });
                    match forms.find(|form| !form.text) {
                        // What the parts list is listed; what they say of JSON holds together.
                        Some(form) if form.schemas.is_empty() => self.options.extend(form.options),
                        Some(_) => self.schemas.push(schema.clone()),
                        None => *self = Self::TEXT,
                    }
                }
                _ => *self = Self::TEXT,
            },
            (false, _) => self.schemas.push(schema.clone()),
        }
    }
}

/// The values that a schema lists.
fn listed(fields: &Map<String, Value>) -> Option<&[Value]> {
    let constant = fields.get("const").map(std::slice::from_ref);
    constant.or_else(|| fields.get("enum")?.as_array().map(Vec::as_slice))
}

/// Whether a schema with branches says nothing of its own about kinds.
fn is_plain(fields: &Map<String, Value>) -> bool {
    !fields.contains_key("type") && !fields.contains_key("allOf")
}

/// The kinds of JSON that a schema allows by itself. One without a type that speaks of properties
/// or items means an object or an array.
fn kinds(fields: &Map<String, Value>) -> Vec<&str> {
    let has = |keys: &[&str]| keys.iter().any(|key| fields.contains_key(*key));
    match fields.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ if has(&["properties", "additionalProperties"]) => vec!["object"],
        _ if has(&["items", "prefixItems"]) => vec!["array"],
        _ => vec!["string"],
    }
}

/// Follows references; `None` where they lead nowhere, round in circles, or too far.
pub(super) fn resolve<'a>(mut schema: &'a Value, root: &'a Value) -> Option<&'a Value> {
    for _ in 0..MOST_REFERENCES {
        match schema.get("$ref") {
            None => return Some(schema),
            Some(reference) => {
                schema = root.pointer(reference.as_str()?.strip_prefix('#')?)?;
            }
        }
    }
    None
}

/// A schema of its own, with the definitions of `root` where it refers to some. `budget` is what
/// copies may still take, in bytes.
pub(super) fn standalone(
    schema: &Value,
    root: &Value,
    budget: &mut usize,
) -> Result<Value, GrammarError> {
    let Value::Object(fields) = schema else { return Ok(schema.clone()) };
    let mut fields = fields.clone();
    let text = schema.to_string();
    if text.contains("\"$ref\"") {
        for key in ["$defs", "definitions"] {
            let Some(definitions) = root.get(key) else { continue };
            let size = definitions.to_string().len();
            *budget = budget.checked_sub(size).ok_or_else(|| {
                GrammarError::new("too many arguments refer to too many definitions")
            })?;
            fields.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    // What means an object or an array has to say so, or it means everything.
    if !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| fields.contains_key(*key)) {
        let kind = kinds(&fields)[0].to_owned();
        fields.insert("type".into(), kind.into());
    }
    Ok(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_form_is_what_the_parser_reads_back() {
        let root = json!({"$defs": {"City": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}}});
        let number = json!({"type": "integer"});
        let json = |schema: &Value| Form { schemas: vec![schema.clone()], ..Form::default() };
        let options = |texts: &[&str]| Form {
            options: texts.iter().map(ToString::to_string).collect(),
            ..Form::default()
        };
        for (schema, wanted) in [
            (json!({"type": "string"}), Form::TEXT),
            (json!({"$ref": "#/$defs/City"}), Form::TEXT),
            (json!({"$ref": "#/$defs/Loop"}), Form::TEXT),
            (json!({"type": ["string", "null"]}), Form::TEXT),
            (json!({}), Form::TEXT),
            (json!(true), Form::TEXT),
            (json!({"allOf": [{"$ref": "#/$defs/City"}], "default": "x"}), Form::TEXT),
            (json!({"allOf": [{"enum": ["a"]}]}), options(&["a"])),
            (json!({"enum": ["a", 1, null]}), options(&["a", "1", "null"])),
            (json!({"const": "a"}), options(&["a"])),
            (json!({"anyOf": [{"const": "a"}, {"const": "b"}]}), options(&["a", "b"])),
            (number.clone(), json(&number)),
            (json!({"anyOf": [number, {"$ref": "#/$defs/City"}]}), Form::TEXT),
            (
                json!({"anyOf": [number, {"enum": ["a"]}]}),
                Form { options: vec!["a".into()], ..json(&number) },
            ),
        ] {
            let form = Form::of(&schema, &root);
            assert_eq!(form.text, wanted.text, "{schema}");
            assert!(form.text || form == wanted, "{schema}: {form:?}");
        }
    }
}
