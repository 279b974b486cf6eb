//! Literals of Python, which models write where JSON was meant.

use serde_json::{Map, Number, Value};

/// Nested deeper than this, it is no literal.
const MAX_DEPTH: usize = 64;

/// `None`, `True`, `{'a': (1, 2)}` and the like, as JSON.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// A value and the white space after it.
    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '{' => self.dictionary(depth)?,
            '[' => Value::Array(self.items(']', depth)?),
            '(' => Value::Array(self.items(')', depth)?),
            quote @ ('\'' | '"') => Value::String(self.string(quote)?),
            _ => self.word()?,
        };
        self.space();
        Some(value)
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a character and the white space after it, where it comes next.
    fn takes(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        if let Some(rest) = rest {
            self.rest = rest.trim_start();
        }
        rest.is_some()
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.takes('{');
        let mut entries = Map::new();
        while !self.takes('}') {
            let quote = self.rest.chars().next().filter(|c| "'\"".contains(*c))?;
            let key = self.string(quote)?;
            self.space();
            self.takes(':').then_some(())?;
            entries.insert(key, self.value(depth + 1)?);
            if !self.takes(',') && !self.rest.starts_with('}') {
                return None;
            }
        }
        Some(Value::Object(entries))
    }

    fn items(&mut self, close: char, depth: usize) -> Option<Vec<Value>> {
        let open = self.rest.chars().next()?;
        self.takes(open);
        let mut items = Vec::new();
        while !self.takes(close) {
            items.push(self.value(depth + 1)?);
            if !self.takes(',') && !self.rest.starts_with(close) {
                return None;
            }
        }
        Some(items)
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    escaped @ ('\\' | '\'' | '"') => text.push(escaped),
                    other => text.extend(['\\', other]),
                },
                other => text.push(other),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', ']', '}', ')', ':', ' ', '\n', '\t']);
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "None" | "null" => Some(Value::Null),
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            _ => serde_json::from_str::<Number>(word).ok().map(Value::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_become_json_and_all_else_does_not() {
        for (text, wanted) in [
            ("True", json!(true)),
            (" None ", json!(null)),
            (
                "{'a': (1, 2.5), \"b\": [False,], 'c': {}}",
                json!({"a": [1, 2.5], "b": [false], "c": {}}),
            ),
            (r"'it\'s \n\d'", json!("it's \n\\d")),
            ("[]", json!([])),
        ] {
            assert_eq!(literal(text), Some(wanted), "{text}");
        }
        let deep = "[".repeat(100_000);
        for text in ["", "auto", "Tru", "{'a'}", "{a: 1}", "[1 2]", "'open", "True]", "[,]", &deep]
        {
            assert_eq!(literal(text), None, "{text}");
        }
    }
}
