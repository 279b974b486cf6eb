//! Measures formats before they are compiled: what compilers would recurse into without end, or
//! write out many times over, is refused here.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value, json};

use super::{Format, GrammarError};

/// Bytes of a format.
const MOST_BYTES: usize = 1 << 20;
/// Marks of nesting in a grammar, wherever they stand.
const MOST_MARKS: usize = 10_000;
/// Levels of a schema and of all definitions that it refers to.
const MOST_LEVELS: usize = 10_000;
/// Schemas that a schema may become when definitions are put in and branches are combined.
pub(super) const MOST_SCHEMAS: u64 = 500_000;

/// Schemas that take as long as a pair of patterns that are compared, or as one of the remainders
/// that a multiple may have on the way.
const STEP: u64 = 50;

/// Fields whose values are data.
const DATA: [&str; 6] = ["enum", "const", "default", "examples", "required", "type"];
/// Fields whose values are schemas by name.
const NAMED: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Fields that say nothing of a value.
const REMARKS: [&str; 9] = [
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
];

/// Whether a format is small enough to look at.
pub(super) fn size(format: &Format) -> Result<(), GrammarError> {
    let (what, bytes) = match format {
        Format::JsonObject => return Ok(()),
        Format::JsonSchema(schema) => ("schema", schema.to_string().len()),
        Format::Regex(regex) => ("regex", regex.len()),
        Format::Choice(texts) => ("choice", texts.iter().map(|text| text.len() + 4).sum()),
        Format::Grammar(lark) => ("grammar", lark.len()),
        Format::Calls { tools, .. } => {
            let bytes =
                |tool: &super::ToolForm| tool.name.len() + tool.parameters.to_string().len();
            ("tools", tools.iter().map(bytes).sum())
        }
    };
    match bytes > MOST_BYTES {
        true => Err(GrammarError::new(format!("{what}: {bytes} bytes, at most {MOST_BYTES}"))),
        false => Ok(()),
    }
}

/// Whether a grammar is Lark's and not nested too deep. What nests is counted wherever it stands,
/// in texts too, so that nothing hides from the count.
pub(super) fn lark(lark: &str) -> Result<(), GrammarError> {
    if lark.lines().any(|line| line.contains("::=") && !line.trim_start().starts_with("//")) {
        let what = "grammar: `::=` is GBNF or EBNF; rules in Lark's notation are `name: …`";
        return Err(GrammarError::new(what));
    }
    let mut left = MOST_SCHEMAS;
    for (at, directive) in lark.match_indices("%json") {
        let rest = &lark[at + directive.len()..];
        let schema = serde_json::Deserializer::from_str(rest).into_iter::<Value>().next();
        if let Some(Ok(schema)) = schema {
            measure(&schema, &mut left)
                .map_err(|error| GrammarError::new(format!("grammar: %json: {}", error.what)))?;
        }
    }
    let marks = lark.bytes().filter(|byte| b"([{~:".contains(byte)).count();
    match marks > MOST_MARKS {
        true => {
            let what = format!("grammar: {marks} of ( [ {{ ~ and :, at most {MOST_MARKS}");
            Err(GrammarError::new(what))
        }
        false => Ok(()),
    }
}

/// A schema with `oneOf` as `anyOf`, if it is not nested too deep and becomes no more than what is
/// `left` of [`MOST_SCHEMAS`].
pub(super) fn schema(schema: &Value, left: &mut u64) -> Result<Value, GrammarError> {
    let schema = any_of(schema);
    measure(&schema, left)?;
    Ok(schema)
}

fn measure(schema: &Value, left: &mut u64) -> Result<(), GrammarError> {
    let mut targets = HashSet::new();
    references(schema, &mut targets);
    let mut levels = depth(schema);
    for reference in &targets {
        let pointer = reference.strip_prefix('#');
        // Compilers differ in how they read escapes.
        let pointer = pointer.filter(|pointer| !pointer.contains(['~', '%']) && !is_data(pointer));
        let Some(target) = pointer.and_then(|pointer| schema.pointer(pointer)) else {
            let reference: String = reference.chars().take(100).collect();
            let what = format!("$ref {reference:?} is not to a schema in the same document");
            return Err(GrammarError::new(what));
        };
        levels += depth(target);
    }
    if levels > MOST_LEVELS {
        let what = format!("schemas that are nested or refer to others {levels} deep");
        return Err(GrammarError::new(format!("{what}, at most {MOST_LEVELS}")));
    }
    let mut measure = Measure { root: schema, known: HashMap::new(), open: HashSet::new() };
    // A definition is compiled once, and once more wherever it is put in.
    let sizes = targets.iter().map(|reference| measure.target(reference).size);
    let size = sizes.fold(0, u64::saturating_add).saturating_add(measure.size(schema).size);
    *left = left.checked_sub(size).ok_or_else(|| {
        let what = "allOf, anyOf, patterns, multipleOf and $ref beside others combine to too much";
        GrammarError::new(what)
    })?;
    Ok(())
}

fn references<'a>(schema: &'a Value, targets: &mut HashSet<&'a str>) {
    if let Value::Object(fields) = schema {
        targets.extend(fields.get("$ref").and_then(Value::as_str));
        fields.iter().flat_map(children).for_each(|inner| references(inner, targets));
    }
}

/// The schemas in a field.
fn children<'a>((key, value): (&'a String, &'a Value)) -> Vec<&'a Value> {
    match value {
        _ if DATA.contains(&key.as_str()) => Vec::new(),
        Value::Object(named) if NAMED.contains(&key.as_str()) => named.values().collect(),
        Value::Array(schemas) => schemas.iter().collect(),
        schema => vec![schema],
    }
}

/// Whether a pointer leads into data.
fn is_data(pointer: &str) -> bool {
    let parts: Vec<&str> = pointer.split('/').collect();
    let named = |index: usize| NAMED.contains(&parts[index]);
    (1..parts.len()).any(|index| DATA.contains(&parts[index]) && !named(index - 1))
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Array(values) => values.iter().map(depth).max(),
        _ => None,
    };
    1 + inner.unwrap_or(0)
}

/// The compiler takes `oneOf` for `anyOf` too, but only after it has compared all branches with
/// each other.
fn any_of(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut fields: Map<String, Value> = fields
                .iter()
                .map(|(key, value)| {
                    let value = match value {
                        Value::Object(schemas) if NAMED.contains(&key.as_str()) => schemas
                            .iter()
                            .map(|(name, schema)| (name.clone(), any_of(schema)))
                            .collect(),
                        value if DATA.contains(&key.as_str()) => value.clone(),
                        value => any_of(value),
                    };
                    (key.clone(), value)
                })
                .collect();
            if let Some(branches) = fields.shift_remove("oneOf") {
                if fields.contains_key("anyOf") {
                    let parts = fields.entry("allOf").or_insert_with(|| json!([]));
                    if let Some(parts) = parts.as_array_mut() {
                        parts.push(json!({"anyOf": branches}));
                    }
                } else {
                    fields.insert("anyOf".into(), branches);
                }
            }
            Value::Object(fields)
        }
        Value::Array(schemas) => schemas.iter().map(any_of).collect(),
        other => other.clone(),
    }
}

/// The digits of a number that count, as a whole number.
fn digits(number: &Number) -> u64 {
    let decimal = format!("{}", number.as_f64().unwrap_or(f64::MAX).abs()).replace('.', "");
    decimal.trim_matches('0').parse().unwrap_or(if decimal.len() < 20 { 1 } else { u64::MAX })
}

/// How much the compiler makes of a schema, at most.
#[derive(Debug, Clone, Copy)]
struct Size {
    size: u64,
    /// It has branches, which are combined with those of other parts.
    branches: bool,
}

struct Measure<'a> {
    root: &'a Value,
    known: HashMap<&'a str, Size>,
    /// Definitions that are being measured.
    open: HashSet<&'a str>,
}

impl<'a> Measure<'a> {
    fn size(&mut self, schema: &'a Value) -> Size {
        let Value::Object(fields) = schema else { return Size { size: 1, branches: false } };
        let is_said = |key: &String| !REMARKS.contains(&key.as_str());
        if let Some(Value::String(_)) = fields.get("$ref")
            && fields.keys().filter(|key| is_said(key)).count() == 1
        {
            return Size { size: 1, branches: false };
        }
        // Those without branches lie beside each other; those with are combined.
        let mut plain = 1u64;
        let mut combined = 1u64;
        let mut branches = false;
        let mut add = |part: Size| match part.branches {
            true => {
                branches = true;
                combined = combined.saturating_mul(part.size);
            }
            false => plain = plain.saturating_add(part.size),
        };
        let mut own = Size { size: 1, branches: false };
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => add(self.target(reference)),
                ("allOf", Value::Array(parts)) => {
                    for part in parts {
                        match part.get("$ref").and_then(Value::as_str) {
                            Some(reference) => add(self.target(reference)),
                            None => add(self.size(part)),
                        }
                    }
                }
                ("anyOf", Value::Array(parts)) => {
                    let sizes = parts.iter().map(|part| self.size(part).size);
                    add(Size { size: sizes.fold(0, u64::saturating_add), branches: true });
                }
                ("multipleOf", Value::Number(number)) => {
                    let size = STEP.saturating_mul(digits(number));
                    own = own.and(Size { size, branches: true });
                }
                // All are compared with each other.
                ("oneOf", Value::Array(parts)) => {
                    let sizes = parts.iter().map(|part| self.size(part).size);
                    let size = sizes.fold(0, u64::saturating_add);
                    add(Size { size: size.saturating_mul(size), branches: true });
                }
                ("enum" | "type", Value::Array(values)) => {
                    add(Size { size: values.len() as u64, branches: values.len() > 1 });
                }
                ("$defs" | "definitions", _) => {}
                // Whether two patterns exclude each other is looked at for all pairs, and again for
                // each part that is combined.
                ("patternProperties", Value::Object(patterns)) => {
                    let count = patterns.len() as u64;
                    own = own.and(Size { size: STEP * count * count, branches: true });
                    for inner in patterns.values() {
                        own = own.and(self.size(inner));
                    }
                }
                _ => {
                    for inner in children((key, value)) {
                        own = own.and(self.size(inner));
                    }
                }
            }
        }
        add(own);
        Size { size: plain.saturating_mul(combined), branches }
    }

    /// Of what a reference leads to, as if it stood there. One into itself is not put in.
    fn target(&mut self, reference: &'a str) -> Size {
        let nothing = Size { size: 1, branches: false };
        if let Some(size) = self.known.get(reference) {
            return *size;
        }
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target else { return nothing };
        if !self.open.insert(reference) {
            return nothing;
        }
        let size = match target.get("$ref").and_then(Value::as_str) {
            Some(next) => self.target(next).and(self.size(target)),
            None => self.size(target),
        };
        self.open.remove(reference);
        self.known.insert(reference, size);
        size
    }
}

impl Size {
    fn and(self, other: Size) -> Size {
        Size {
            size: self.size.saturating_add(other.size),
            branches: self.branches || other.branches,
        }
    }
}
