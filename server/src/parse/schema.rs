//! What a JSON schema says of one argument: the kinds of JSON and the values that it may have.

use serde_json::Value;

/// References that are followed one after the other.
const MAX_DEPTH: usize = 32;
/// Schemas that are looked at for one argument.
const MAX_VISITS: usize = 512;

/// A set of kinds of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const STRING: Kinds = Kinds(1);
    const NULL: Kinds = Kinds(32);
    const INTEGER: Kinds = Kinds(2);
    const NUMBER: Kinds = Kinds(2 | 4);
    const BOOLEAN: Kinds = Kinds(8);
    const ARRAY: Kinds = Kinds(16);
    const OBJECT: Kinds = Kinds(64);
    const NONE: Kinds = Kinds(0);
    const ALL: Kinds = Kinds(127);

    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0) => {
                Self::INTEGER
            }
            Value::Number(_) => Kinds(4),
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            "null" => Self::NULL,
            _ => Self::ALL,
        }
    }

    pub(super) fn contains(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn without(self, other: Kinds) -> Self {
        Kinds(self.0 & !other.0)
    }

    /// With null besides.
    pub(super) fn or_null(self) -> Self {
        self.or(Self::NULL)
    }

    fn and(self, other: Kinds) -> Self {
        Kinds(self.0 & other.0)
    }

    fn or(self, other: Kinds) -> Self {
        Kinds(self.0 | other.0)
    }
}

/// What an argument may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allowed {
    pub(super) kinds: Kinds,
    /// The only values, where they are listed.
    pub(super) values: Option<Vec<Value>>,
}

impl Allowed {
    const ANYTHING: Allowed = Allowed { kinds: Kinds::ALL, values: None };

    fn and(self, other: Allowed) -> Self {
        let kinds = self.kinds.and(other.kinds);
        let values = match (self.values, other.values) {
            (Some(these), Some(those)) => {
                Some(these.into_iter().filter(|value| those.contains(value)).collect())
            }
            (these, those) => these.or(those),
        };
        // What contradicts itself says nothing.
        if kinds == Kinds::NONE { Self::ANYTHING } else { Allowed { kinds, values } }
    }

    fn or(self, other: Allowed) -> Self {
        let values = self.values.zip(other.values);
        Allowed {
            kinds: self.kinds.or(other.kinds),
            values: values.map(|(these, those)| [these, those].concat()),
        }
    }
}

/// What the schemas of a tool say of an argument, given those that are known besides it.
pub(super) fn argument(root: &Value, name: &str, known: &[(String, String)]) -> Allowed {
    let mut reader = Reader { root, visits: 0 };
    let schemas = reader.properties(root, name, known, 0);
    schemas
        .into_iter()
        .map(|schema| reader.allowed(schema, 0))
        .reduce(Allowed::or)
        .unwrap_or(Allowed::ANYTHING)
}

/// Whether what is allowed may still depend on arguments that are to come.
pub(super) fn depends_on_others(root: &Value, name: &str) -> bool {
    let mut reader = Reader { root, visits: 0 };
    let schemas = reader.properties(root, name, &[], 0);
    let mut allowed = schemas.into_iter().map(|schema| reader.allowed(schema, 0));
    let Some(first) = allowed.next() else { return false };
    allowed.any(|other| other != first)
}

struct Reader<'a> {
    root: &'a Value,
    visits: usize,
}

impl<'a> Reader<'a> {
    /// Follows references; `None` where they lead nowhere, round in circles, or too far.
    fn target(&mut self, mut schema: &'a Value) -> Option<&'a Value> {
        for _ in 0..MAX_DEPTH {
            self.visits += 1;
            if self.visits > MAX_VISITS {
                return None;
            }
            match schema.get("$ref") {
                None => return Some(schema),
                Some(reference) => {
                    schema = self.root.pointer(reference.as_str()?.strip_prefix('#')?)?;
                }
            }
        }
        None
    }

    /// The schemas of a property in the branches that fit what is known.
    fn properties(
        &mut self,
        schema: &'a Value,
        name: &str,
        known: &[(String, String)],
        depth: usize,
    ) -> Vec<&'a Value> {
        if depth > MAX_DEPTH {
            return Vec::new();
        }
        let Some(schema) = self.target(schema) else { return Vec::new() };
        if let Some(property) = schema.get("properties").and_then(|p| p.get(name)) {
            return vec![property];
        }
        let mut found = Vec::new();
        for branch in list(schema, "allOf") {
            found.extend(self.properties(branch, name, known, depth + 1));
        }
        for branch in list(schema, "anyOf").iter().chain(list(schema, "oneOf")) {
            if self.fits(branch, known) {
                found.extend(self.properties(branch, name, known, depth + 1));
            }
        }
        if found.is_empty() {
            found.extend(schema.get("additionalProperties").filter(|other| other.is_object()));
        }
        found
    }

    /// Whether none of the known values contradicts a branch's constants.
    fn fits(&mut self, branch: &'a Value, known: &[(String, String)]) -> bool {
        let Some(branch) = self.target(branch) else { return true };
        let Some(properties) = branch.get("properties") else { return true };
        known.iter().all(|(name, raw)| {
            let Some(property) = properties.get(name) else { return true };
            let is = |value: &Value| match value {
                Value::String(text) => text == raw,
                other => serde_json::from_str::<Value>(raw).is_ok_and(|raw| raw == *other),
            };
            let constant = property.get("const").is_none_or(is);
            constant
                && property
                    .get("enum")
                    .and_then(Value::as_array)
                    .is_none_or(|values| values.iter().any(is))
        })
    }

    fn allowed(&mut self, schema: &'a Value, depth: usize) -> Allowed {
        if depth > MAX_DEPTH {
            return Allowed::ANYTHING;
        }
        let Some(schema) = self.target(schema) else { return Allowed::ANYTHING };
        let mut allowed = Allowed::ANYTHING;
        if let Some(kinds) = schema.get("type") {
            let kinds = match kinds {
                Value::Array(names) => names
                    .iter()
                    .filter_map(Value::as_str)
                    .map(Kinds::named)
                    .fold(Kinds::NONE, Kinds::or),
                name => name.as_str().map_or(Kinds::ALL, Kinds::named),
            };
            allowed = allowed.and(Allowed { kinds, values: None });
        }
        let constant = schema.get("const").map(std::slice::from_ref);
        let listed = schema.get("enum").and_then(Value::as_array).map(Vec::as_slice);
        for values in [constant, listed].into_iter().flatten() {
            let kinds = values.iter().map(Kinds::of).fold(Kinds::NONE, Kinds::or);
            allowed = allowed.and(Allowed { kinds, values: Some(values.to_vec()) });
        }
        for key in ["anyOf", "oneOf"] {
            let branches = list(schema, key).iter().map(|branch| self.allowed(branch, depth + 1));
            if let Some(union) = branches.collect::<Vec<_>>().into_iter().reduce(Allowed::or) {
                allowed = allowed.and(union);
            }
        }
        for branch in list(schema, "allOf") {
            allowed = allowed.and(self.allowed(branch, depth + 1));
        }
        if schema.get("nullable") == Some(&Value::Bool(true)) {
            allowed.kinds = allowed.kinds.or(Kinds::NULL);
        }
        allowed
    }
}

fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
