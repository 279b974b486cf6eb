//! From a format to a matcher.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::calls::Try;
use super::vocabulary::Allowed;
use super::{Compiled, Format, Grammar, GrammarError, Shape, Thinking, Vocabulary, calls, screen};

/// For the recursions of compilers, which are as deep as [`screen`] lets pass. Only what is used of
/// it takes memory.
const STACK: usize = 512 << 20;
/// Longest message of llguidance that is passed on.
const LONGEST_MESSAGE: usize = 300;

/// Compiles on a thread of its own, so that neither deep recursion nor a panic is the caller's.
pub(super) fn compile(
    vocabulary: &Vocabulary,
    format: &Format,
    thinking: Thinking,
) -> Result<Grammar, GrammarError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
        let compiling = thread
            .spawn_scoped(scope, || build(vocabulary, format, thinking))
            .map_err(|error| GrammarError::new(format!("no thread to compile on: {error}")))?;
        let panicked = || GrammarError::new("the grammar made its compiler panic");
        compiling.join().unwrap_or_else(|_| Err(panicked()))
    })
}

fn build(
    vocabulary: &Vocabulary,
    format: &Format,
    thinking: Thinking,
) -> Result<Grammar, GrammarError> {
    screen::size(format)?;
    let mut left = screen::MOST_SCHEMAS;
    let grammars = match format {
        Format::JsonObject => {
            vec![json_grammar("answer", &json!({"type": "object"}), "schema", &mut left)?]
        }
        Format::JsonSchema(schema) => vec![json_grammar("answer", schema, "schema", &mut left)?],
        Format::Regex(regex) => vec![GrammarWithLexer::from_regex(regex)],
        Format::Choice(texts) => vec![choice(texts)?],
        Format::Grammar(lark) => {
            screen::lark(lark)?;
            vec![GrammarWithLexer::from_lark(lark.clone())]
        }
        Format::Calls { tools, .. } => calls::grammars(vocabulary, tools, Try::Nothing)?,
    };
    let shape = match format {
        Format::Calls { required, parallel, .. } => {
            let open = vocabulary.special("<tool_call>")?;
            Shape::Calls { open, required: *required, parallel: *parallel }
        }
        _ => Shape::Whole,
    };
    let place = match format {
        Format::JsonObject | Format::JsonSchema(_) => "schema",
        Format::Regex(_) => "regex",
        Format::Choice(_) => "choice",
        Format::Grammar(_) => "grammar",
        Format::Calls { .. } => "tools",
    };
    let named = |error: String| GrammarError::new(format!("{place}: {error}"));
    let mut matcher = match (matcher(vocabulary, grammars), format) {
        (Ok(matcher), _) => matcher,
        (Err(_), Format::Calls { tools, .. }) => {
            let grammars = calls::grammars(vocabulary, tools, Try::Each)?;
            self::matcher(vocabulary, grammars).map_err(named)?
        }
        (Err(error), _) => return Err(named(error)),
    };
    // What is first allowed is the same for all answers. Computing it also shows whether masks of
    // this grammar stay within the limits at all.
    let first = match matcher.is_stopped() {
        true => Allowed { words: Vec::new(), complete: true },
        false => Allowed::of(&mut matcher, &vocabulary.tokens).map_err(|text| named(cut(&text)))?,
    };
    if !first.complete && first.words.iter().all(|word| *word == 0) {
        return Err(named("nothing can be written by it".into()));
    }
    let vocabulary = vocabulary.tokens.clone();
    Ok(Grammar { compiled: Arc::new(Compiled { vocabulary, matcher, first, shape, thinking }) })
}

/// A matcher of grammars, the first of which is where it starts.
///
/// # Errors
/// What llguidance says, cut short.
pub(super) fn matcher(
    vocabulary: &Vocabulary,
    grammars: Vec<GrammarWithLexer>,
) -> Result<Matcher, String> {
    let parser = vocabulary.factory.create_parser(TopLevelGrammar { grammars, max_tokens: None });
    let mut matcher = Matcher::new(parser);
    if let Some(error) = matcher.get_error() {
        return Err(cut(&error));
    }
    // A grammar that has ended before it began is stopped here.
    match matcher.consume_tokens(&[]) {
        Ok(()) => Ok(matcher),
        Err(error) => Err(cut(&error.to_string())),
    }
}

/// A schema as a grammar, if it becomes no more than what is `left`; with white space as models
/// write it: some, never without end.
pub(super) fn json_grammar(
    name: &str,
    schema: &Value,
    place: &str,
    left: &mut u64,
) -> Result<GrammarWithLexer, GrammarError> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        other => screen::schema(other, left)
            .map_err(|error| GrammarError::new(format!("{place}: {}", error.what)))?,
    };
    let Some(fields) = schema.as_object_mut() else {
        return Err(GrammarError::new(format!("{place}: a JSON schema is an object")));
    };
    let options = json!({
        "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}",
        "coerce_one_of": true,
    });
    fields.insert("x-guidance".into(), options);
    let mut grammar = GrammarWithLexer::from_json_schema(schema);
    grammar.name = Some(name.to_owned());
    Ok(grammar)
}

fn choice(texts: &[String]) -> Result<GrammarWithLexer, GrammarError> {
    if texts.is_empty() {
        return Err(GrammarError::new("choice: there is nothing to choose from"));
    }
    let (rule, terminal) = one_of("CHOICE", texts.iter().map(String::as_str));
    Ok(GrammarWithLexer::from_lark(format!("start: {rule}\n{terminal}")))
}

/// What stands for one of some texts in a rule, and the terminal that it needs.
pub(super) fn one_of<'a>(terminal: &str, texts: impl Iterator<Item = &'a str>) -> (String, String) {
    let (empty, texts): (Vec<&str>, Vec<&str>) = texts.partition(|text| text.is_empty());
    // A terminal matches at least one byte.
    let rule = match (empty.is_empty(), texts.is_empty()) {
        (true, _) => terminal.to_owned(),
        (false, false) => format!("{terminal}?"),
        (false, true) => "\"\"".to_owned(),
    };
    let quoted: Vec<String> = texts.into_iter().map(quote).collect();
    match quoted.is_empty() {
        true => (rule, String::new()),
        false => (rule, format!("{terminal}: {}\n", quoted.join(" | "))),
    }
}

/// A text as Lark writes it.
pub(super) fn quote(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The first line of an error, without what it was in, and not too long.
fn cut(error: &str) -> String {
    if let Some(panic) = error.strip_prefix("panic: ") {
        let line = panic.lines().next().unwrap_or_default();
        return format!("its compiler gave up: {}", line.chars().take(100).collect::<String>());
    }
    let text = error.split("\n<").next().unwrap_or_default().trim();
    match text.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}
