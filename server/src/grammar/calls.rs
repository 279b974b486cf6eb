//! GLM's form of a tool call as a grammar in Lark's notation.
//!
//! ```text
//! <tool_call>NAME
//! <arg_key>KEY</arg_key>
//! <arg_value>VALUE</arg_value>
//! </tool_call>
//! ```
//!
//! The tags are tokens, the line ends may be left out. The grammar begins after the first tag.

use std::collections::HashMap;
use std::fmt::Write;

use llguidance::api::GrammarWithLexer;
use serde_json::{Map, Value};

use super::compile::{json_grammar, matcher, one_of, quote};
use super::value::{self, Form};
use super::{GrammarError, ToolForm, Vocabulary, screen};

/// Bytes of definitions that are copied to arguments that refer to them.
const MOST_COPIED: usize = 4 << 20;
/// Different schemas of arguments that are JSON.
const MOST_SCHEMAS: usize = 1_000;

/// Whether each schema is tried by itself, which takes its time but tells what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Nothing,
    Each,
}

/// The grammar of one call of one of the tools, and those it refers to.
pub(super) fn grammars(
    vocabulary: &Vocabulary,
    tools: &[ToolForm],
    tried: Try,
) -> Result<Vec<GrammarWithLexer>, GrammarError> {
    if tools.is_empty() {
        return Err(GrammarError::new("tools: there is none to call"));
    }
    let tag = |name: &str| Ok(format!("<[{}]>", vocabulary.special(name)?));
    let mut writer = Writer {
        vocabulary,
        tried,
        key: [tag("<arg_key>")?, tag("</arg_key>")?],
        value: [tag("<arg_value>")?, tag("</arg_value>")?],
        end: tag("</tool_call>")?,
        lark: String::new(),
        json: Vec::new(),
        names: HashMap::new(),
        rules: 0,
        budget: MOST_COPIED,
        left: screen::MOST_SCHEMAS,
    };
    let calls: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
    // Texts that spell a tag would be read as one.
    let tags = r"<\/?(tool_call|arg_key|arg_value)>";
    let _ = writeln!(
        writer.lark,
        "start: {}\nLINE: \"\\n\"\nTEXT: /(?s:.+)/ & ~/(?s:.*){tags}(?s:.*)/",
        calls.join(" | ")
    );
    for (index, tool) in tools.iter().enumerate() {
        writer.call(index, tool)?;
    }
    let mut grammars = vec![GrammarWithLexer::from_lark(writer.lark)];
    grammars.extend(writer.json);
    Ok(grammars)
}

struct Writer<'a> {
    vocabulary: &'a Vocabulary,
    tried: Try,
    key: [String; 2],
    value: [String; 2],
    end: String,
    lark: String,
    /// Grammars of arguments that are JSON.
    json: Vec<GrammarWithLexer>,
    /// Their names, by what they are.
    names: HashMap<String, String>,
    rules: usize,
    /// Bytes that may still be copied.
    budget: usize,
    /// Schemas that those of the arguments may still become.
    left: u64,
}

/// Which other arguments there may be.
enum Others<'a> {
    None,
    Any,
    By(&'a Value),
}

impl Writer<'_> {
    fn call(&mut self, index: usize, tool: &ToolForm) -> Result<(), GrammarError> {
        let is_of_name = |c: char| !c.is_whitespace() && !c.is_control() && c != '<' && c != '>';
        if tool.name.is_empty() || !tool.name.chars().all(is_of_name) {
            return Err(GrammarError::new(format!("tools[{index}]: {:?} is no name", tool.name)));
        }
        let root = &tool.parameters;
        let nothing = Map::new();
        let Arguments { properties, required, others } = arguments(tool, &nothing)?;
        let mut parts = String::new();
        let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
        names.extend(required.iter().filter(|name| !properties.contains_key(**name)));
        for name in &names {
            let schema = properties.get(*name).unwrap_or(&Value::Null);
            let place = format!("tool `{}`: argument `{name}`", tool.name);
            if name.contains('<') || name.trim() != *name {
                return Err(GrammarError::new(format!("{place}: a tag cannot hold this name")));
            }
            let value = self.written(schema, root, &place, tool.strict)?;
            let rule = self.argument(&quote(name), &value);
            let optional = if required.contains(name) { "" } else { "?" };
            let _ = write!(parts, " {rule}{optional}");
        }
        let schema = match others {
            Others::None => None,
            Others::Any => Some(&Value::Null),
            Others::By(schema) => Some(schema),
        };
        if let Some(schema) = schema {
            let place = format!("tool `{}`: other arguments", tool.name);
            let value = self.written(schema, root, &place, tool.strict)?;
            let key = format!("OTHER_{index}");
            let rule = self.argument(&key, &value);
            let _ = write!(parts, " {rule}*");
            let taken: Vec<String> = names.iter().copied().map(quote).collect();
            let but = match taken.is_empty() {
                true => String::new(),
                false => format!(" & ~({})", taken.join(" | ")),
            };
            let _ = writeln!(self.lark, r"{key}: /[^<>\s]([^<>\n\r]{{0,126}}[^<>\s])?/{but}");
        }
        let name = quote(&tool.name);
        let _ = writeln!(self.lark, "call_{index}: {name} LINE?{parts} {}", self.end);
        Ok(())
    }

    /// A rule of an argument.
    fn argument(&mut self, key: &str, value: &str) -> String {
        let name = format!("argument_{}", self.rules);
        self.rules += 1;
        let ([key_open, key_close], [open, close]) = (&self.key, &self.value);
        let _ = writeln!(
            self.lark,
            "{name}: {key_open} {key} {key_close} LINE? {open} {value} {close} LINE?"
        );
        name
    }

    /// How a value is written, in a rule.
    fn written(
        &mut self,
        schema: &Value,
        root: &Value,
        place: &str,
        strict: bool,
    ) -> Result<String, GrammarError> {
        const TEXT: &str = "TEXT?";
        let form = Form::of(schema, root);
        if form.text {
            return Ok(TEXT.into());
        }
        let mut ways = Vec::new();
        if !form.options.is_empty() {
            let texts = form.options.iter().map(String::as_str);
            let key = format!("options {:?}", form.options);
            let way = match self.names.get(&key) {
                Some(way) => way.clone(),
                None => {
                    let (way, terminal) = one_of(&format!("OPTION_{}", self.names.len()), texts);
                    self.lark.push_str(&terminal);
                    self.names.insert(key, way.clone());
                    way
                }
            };
            ways.push(way);
        }
        for schema in &form.schemas {
            match self.json(schema, root, place) {
                Ok(way) => ways.push(way),
                Err(error) if strict => return Err(error),
                Err(_) => return Ok(TEXT.into()),
            }
        }
        match ways.is_empty() {
            true if strict => Err(GrammarError::new(format!("{place}: nothing is allowed"))),
            true => Ok(TEXT.into()),
            false => Ok(format!("({})", ways.join(" | "))),
        }
    }

    /// The name of the grammar of a schema.
    fn json(&mut self, schema: &Value, root: &Value, place: &str) -> Result<String, GrammarError> {
        let at = |what: &str| GrammarError::new(format!("{place}: {what}"));
        let schema =
            value::standalone(schema, root, &mut self.budget).map_err(|error| at(&error.what))?;
        let key = schema.to_string();
        if let Some(name) = self.names.get(&key) {
            return Ok(name.clone());
        }
        let name = format!("json_{}", self.names.len());
        let grammar = json_grammar(&name, &schema, place, &mut self.left)?;
        if self.tried == Try::Each {
            matcher(self.vocabulary, vec![grammar.clone()]).map_err(|error| at(&error))?;
        }
        if self.json.len() == MOST_SCHEMAS {
            let what = format!("past {MOST_SCHEMAS} different schemas of arguments");
            return Err(at(&what));
        }
        self.json.push(grammar);
        let reference = format!("@{name}");
        self.names.insert(key, reference.clone());
        Ok(reference)
    }
}

/// What a tool's schema says of its arguments.
struct Arguments<'a> {
    properties: &'a Map<String, Value>,
    required: Vec<&'a str>,
    others: Others<'a>,
}

fn arguments<'a>(
    tool: &'a ToolForm,
    nothing: &'a Map<String, Value>,
) -> Result<Arguments<'a>, GrammarError> {
    let without = |others| Arguments { properties: nothing, required: Vec::new(), others };
    let any = without(Others::Any);
    let schema = match value::resolve(&tool.parameters, &tool.parameters) {
        Some(Value::Object(fields)) => fields,
        Some(Value::Null | Value::Bool(true)) if tool.strict => return Ok(without(Others::None)),
        _ if tool.strict => return Err(no_object(&tool.name)),
        _ => return Ok(any),
    };
    let combined = ["anyOf", "oneOf", "allOf"].iter().any(|key| schema.contains_key(*key));
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("object");
    if combined || kind != "object" {
        return if tool.strict { Err(no_object(&tool.name)) } else { Ok(any) };
    }
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(nothing);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let others = match schema.get("additionalProperties") {
        _ if tool.strict => Others::None,
        Some(Value::Bool(false)) => Others::None,
        Some(Value::Bool(true)) => Others::Any,
        Some(schema @ Value::Object(_)) => Others::By(schema),
        _ if properties.is_empty() => Others::Any,
        _ => Others::None,
    };
    Ok(Arguments { properties, required: required.filter_map(Value::as_str).collect(), others })
}

fn no_object(name: &str) -> GrammarError {
    let what = "a strict tool's parameters are an object's schema, without anyOf, oneOf and allOf";
    GrammarError::new(format!("tool `{name}`: {what}"))
}
