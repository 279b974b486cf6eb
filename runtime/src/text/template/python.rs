//! What Python does where minijinja does something else: printing values, `json.dumps`, and the
//! white space of `str.strip`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::MAX_OUTPUT;

/// Prints the value of `{{ … }}` as Python's `str` would.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {}
        ValueKind::Number if !value.is_integer() => {}
        _ => return escape_formatter(out, state, value),
    }
    Ok(out.write_str(&Writer::write(state, value, Notation::Repr)?)?)
}

/// The filter `tojson` of transformers' templates: `json.dumps` with `ensure_ascii=False`.
#[expect(clippy::needless_pass_by_value, reason = "the form that minijinja wants a filter in")]
pub(super) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let invalid = |detail| Error::new(ErrorKind::InvalidOperation, detail);
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if indent.is_number() => match usize::try_from(indent).unwrap_or(0) {
            spaces @ 0..=64 => Some(" ".repeat(spaces)),
            _ => return Err(invalid("tojson: indent is at most 64")),
        },
        Some(text) => Some(text.to_string()),
        None => None,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let [item, key] = match separators.map(<[String; 2]>::try_from) {
        Some(Ok(pair)) => pair,
        Some(Err(_)) => return Err(invalid("tojson: separators must be two strings")),
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let notation = Json {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    Writer::write(state, value, Notation::Json(notation))
}

/// Methods of Python's types. Its white space has four control characters that Unicode's lacks.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    match (name, value.as_str(), args) {
        ("strip", Some(text), []) => Ok(text.trim_matches(is_space).into()),
        ("lstrip", Some(text), []) => Ok(text.trim_start_matches(is_space).into()),
        ("rstrip", Some(text), []) => Ok(text.trim_end_matches(is_space).into()),
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// The test `iterable`, which is false for None.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

enum Notation {
    Repr,
    Json(Json),
}

struct Json {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// Writes one value, within the limits on steps, output and depth: a template can build values
/// that are far larger printed than in memory.
struct Writer<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    notation: Notation,
    depth: usize,
}

impl<'a> Writer<'a> {
    const MAX_DEPTH: usize = 200;

    fn write(state: &'a State, value: &Value, notation: Notation) -> Result<String, Error> {
        let mut writer = Self { state, out: String::new(), notation, depth: 0 };
        writer.value(value)?;
        Ok(writer.out)
    }

    fn value(&mut self, value: &Value) -> Result<(), Error> {
        let json = matches!(self.notation, Notation::Json(_));
        match value.kind() {
            ValueKind::None => self.out.push_str(if json { "null" } else { "None" }),
            ValueKind::Bool => self.out.push_str(match (value.is_true(), json) {
                (true, true) => "true",
                (false, true) => "false",
                (true, false) => "True",
                (false, false) => "False",
            }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float(f64::try_from(value.clone())?, json)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value)?,
            ValueKind::Map => self.map(value)?,
            kind if json => {
                let detail = format!("a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, detail));
            }
            _ => self.out.push_str(&format!("{value:?}")),
        }
        Ok(())
    }

    fn sequence(&mut self, value: &Value) -> Result<(), Error> {
        let tuple = value.is_tuple() && matches!(self.notation, Notation::Repr);
        let (open, close) = match (tuple, value.len()) {
            (true, Some(1)) => ("(", ",)"),
            (true, _) => ("(", ")"),
            (false, _) => ("[", "]"),
        };
        self.items(open, close, value.try_iter()?, |writer, item| writer.value(&item))
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if matches!(&self.notation, Notation::Json(json) if json.sort) {
            keys.sort();
        }
        self.items("{", "}", keys.into_iter(), |writer, key| {
            match (&writer.notation, key.kind()) {
                (Notation::Repr, _) | (_, ValueKind::String) => writer.value(&key)?,
                (Notation::Json(_), _) => {
                    writer.out.push('"');
                    writer.value(&key)?;
                    writer.out.push('"');
                }
            }
            match &writer.notation {
                Notation::Repr => writer.out.push_str(": "),
                Notation::Json(json) => writer.out.push_str(&json.key),
            }
            writer.value(&value.get_item(&key)?)
        })
    }

    fn items(
        &mut self,
        open: &str,
        close: &str,
        items: impl Iterator<Item = Value>,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == Self::MAX_DEPTH {
            let detail = format!("a value is nested deeper than {} levels", Self::MAX_DEPTH);
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        self.depth += 1;
        self.out.push_str(open);
        let mut empty = true;
        for item in items {
            if !empty {
                match &self.notation {
                    Notation::Repr => self.out.push_str(", "),
                    Notation::Json(json) => self.out.push_str(&json.item),
                }
            }
            empty = false;
            self.new_line();
            self.state.consume_fuel(1)?;
            write(self, item)?;
            if self.out.len() > MAX_OUTPUT {
                return Err(ErrorKind::WriteFailure.into());
            }
        }
        self.depth -= 1;
        if !empty {
            self.new_line();
        }
        self.out.push_str(close);
        Ok(())
    }

    fn new_line(&mut self) {
        if let Notation::Json(Json { indent: Some(indent), .. }) = &self.notation {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(self.depth));
        }
    }

    fn string(&mut self, text: &str) {
        let ascii = match &self.notation {
            Notation::Repr => None,
            Notation::Json(json) => Some(json.ascii),
        };
        let single = ascii.is_none() && (!text.contains('\'') || text.contains('"'));
        let quote = if single { '\'' } else { '"' };
        self.out.push(quote);
        for c in text.chars() {
            match (c, ascii) {
                ('\\', _) => self.out.push_str("\\\\"),
                ('\n', _) => self.out.push_str("\\n"),
                ('\r', _) => self.out.push_str("\\r"),
                ('\t', _) => self.out.push_str("\\t"),
                ('\u{8}', Some(_)) => self.out.push_str("\\b"),
                ('\u{c}', Some(_)) => self.out.push_str("\\f"),
                _ if c == quote => self.out.extend(['\\', c]),
                (..' ', Some(_)) | ('\u{7f}'.., Some(true)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                (_, None) if !is_printable(c) => self.out.push_str(&match u32::from(c) {
                    code @ ..=0xFF => format!("\\x{code:02x}"),
                    code @ ..=0xFFFF => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                }),
                _ => self.out.push(c),
            }
        }
        self.out.push(quote);
    }
}

/// Python's `str.isprintable`. The standard library's debug output knows the same categories, and
/// leaves combining marks alone after another character.
fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"') || format!("x{c}").escape_debug().count() == 2
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4
/// and from 1e16 on.
fn float(value: f64, json: bool) -> String {
    if !value.is_finite() {
        let (nan, infinity) = if json { ("NaN", "Infinity") } else { ("nan", "inf") };
        let sign = if value < 0.0 { "-" } else { "" };
        return if value.is_nan() { nan.to_owned() } else { format!("{sign}{infinity}") };
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    // serde_json has the right digits (the standard library breaks ties the other way), in
    // another layout.
    let text = serde_json::Value::from(value.abs()).to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let leading = digits.len() - significant.len();
    let digits = significant.trim_end_matches('0');
    if digits.is_empty() {
        return format!("{sign}0.0");
    }
    // The value is 0.digits times ten to this power.
    let point = whole.len() as i32 - leading as i32 + exponent.parse::<i32>().unwrap_or(0);
    let count = digits.len() as i32;
    let zeros = |n: i32| "0".repeat(n.max(0) as usize);
    match point {
        -3..=0 => format!("{sign}0.{}{digits}", zeros(-point)),
        1..=16 if point >= count => format!("{sign}{digits}{}.0", zeros(point - count)),
        1..=16 => {
            let (whole, fraction) = digits.split_at(point as usize);
            format!("{sign}{whole}.{fraction}")
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{sign}{first}{dot}{rest}e{:+03}", point - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::text::{ChatInput, ChatTemplate};

    fn render(source: &str, x: serde_json::Value) -> String {
        let mut input = ChatInput::new(json!([])).unwrap();
        input.kwargs.insert("x".into(), x);
        ChatTemplate::new(source).unwrap().render(&input).unwrap_or_else(|e| e.to_string())
    }

    /// What `json.dumps` of Python 3.11 gives.
    #[test]
    fn tojson_is_json_dumps() {
        let value =
            json!({"b": [1, 2.0, true, null, {}], "a": "é<'&\"\\\n\t\u{1}\u{7f}😀", "e": []});
        for (options, wanted) in [
            (
                "",
                "{\"b\": [1, 2.0, true, null, {}], \"a\": \"é<'&\\\"\\\\\\n\\t\\u0001\u{7f}😀\", \"e\": []}",
            ),
            (
                "(ensure_ascii=True)",
                r#"{"b": [1, 2.0, true, null, {}], "a": "\u00e9<'&\"\\\n\t\u0001\u007f\ud83d\ude00", "e": []}"#,
            ),
            (
                "(indent=2)",
                "{\n  \"b\": [\n    1,\n    2.0,\n    true,\n    null,\n    {}\n  ],\n  \"a\": \"é<'&\\\"\\\\\\n\\t\\u0001\u{7f}😀\",\n  \"e\": []\n}",
            ),
            (
                "(separators=(',', ':'), sort_keys=True)",
                "{\"a\":\"é<'&\\\"\\\\\\n\\t\\u0001\u{7f}😀\",\"b\":[1,2.0,true,null,{}],\"e\":[]}",
            ),
        ] {
            assert_eq!(render(&format!("{{{{ x | tojson{options} }}}}"), value.clone()), wanted);
        }
        let tabs = render("{{ x | tojson(indent='\t') }}", json!({"x": [1, {"y": 2}]}));
        assert_eq!(tabs, "{\n\t\"x\": [\n\t\t1,\n\t\t{\n\t\t\t\"y\": 2\n\t\t}\n\t]\n}");
        assert_eq!(
            render("{{ {1: (1, 2), none: 1.0} | tojson }}", json!(0)),
            r#"{"1": [1, 2], "null": 1.0}"#
        );
    }

    #[test]
    fn numbers_are_printed_as_python_does() {
        let numbers = json!([
            0.1,
            1e22,
            1e16,
            123456789012345.0,
            1e-5,
            0.0001,
            -0.0,
            1.5e-7,
            5e-324,
            165793407361858.0 + 0.125,
            9007199254740993_u64,
            u64::MAX,
            i64::MIN,
            1234.5e20,
            1e100
        ]);
        let wanted = "[0.1, 1e+22, 1e+16, 123456789012345.0, 1e-05, 0.0001, -0.0, 1.5e-07, 5e-324, \
            165793407361858.12, 9007199254740993, 18446744073709551615, -9223372036854775808, \
            1.2345e+23, 1e+100]";
        assert_eq!(render("{{ x | tojson }}", numbers.clone()), wanted);
        assert_eq!(render("{{ x }}", numbers), wanted);
        assert_eq!(
            render("{{ x * 10 }}|{{ -x }}|{{ [x * 10] | tojson }}", json!(1e308)),
            "inf|-1e+308|[Infinity]"
        );
    }

    /// What jinja2 3.1 prints.
    #[test]
    fn values_are_printed_as_python_does() {
        let source = r#"{{ [none, true, 1.0, 1e22, 'a\'b', 'x\ny', {'k': (1, 2)}, (1,)] }}"#;
        assert_eq!(
            render(source, json!(0)),
            r#"[None, True, 1.0, 1e+22, "a'b", 'x\ny', {'k': (1, 2)}, (1,)]"#
        );
        let source = "{{ none }}|{{ x }}|{{ 0.00001 }}|{{ 'a' ~ none ~ true ~ 1.5 }}|{{ y }}";
        assert_eq!(render(source, json!(1e22)), "None|1e+22|1e-05|aNoneTrue1.5|");
        assert_eq!(render("{{ x }}", json!({"name": "x", "n": null})), "{'name': 'x', 'n': None}");
        let odd = json!(["\u{a0}\u{200b}\u{f0000}e\u{301}\\\u{c}", "'\""]);
        assert_eq!(render("{{ x }}", odd), r#"['\xa0\u200b\U000f0000é\\\x0c', '\'"']"#);
        assert_eq!(
            render("{{ x.strip() }}|{{ x.rstrip() }}", json!("\u{1c}\u{3000}a\u{1f}")),
            "a|\u{1c}\u{3000}a"
        );
    }

    #[test]
    fn tojson_refuses_what_python_refuses() {
        for (source, wanted) in [
            ("{{ nothing | tojson }}", "is not JSON serializable"),
            ("{{ x | tojson(colour=1) }}", "unknown keyword argument 'colour'"),
            ("{{ x | tojson(separators=[',']) }}", "separators must be two strings"),
        ] {
            let message = render(source, json!(0));
            assert!(message.contains(wanted), "{message}");
        }
    }
}
