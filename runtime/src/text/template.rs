//! The checkpoint's chat template: jinja2, as transformers runs it.

mod input;
mod python;

use std::io;

pub use input::ChatInput;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::TextError;

/// A compiled chat template. It comes with the checkpoint, so it runs in a sandbox: no files,
/// a budget of steps, and limits on output and recursion.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// Steps of one render, and more of them for each byte of the conversation's JSON. A step is an
/// instruction or 64 bytes touched. GLM's templates take at most three for a byte, where messages
/// are empty, and a tenth in long texts.
const BASE_STEPS: u64 = 1_000_000;
const STEPS_PER_BYTE: u64 = 10;
/// Bytes of one render's output.
const MAX_OUTPUT: usize = 32 << 20;
/// Nested blocks and calls; a macro call counts for several.
const MAX_RECURSION: usize = 200;
/// Stack of the thread that runs a template: a loop can nest a value about 200,000 deep within
/// its steps, and comparing or dropping it takes up to 650 bytes a level. Pages that stay
/// unused cost nothing.
const STACK: usize = 256 << 20;
/// Bytes of a template's source: nested operators recurse while it is compiled.
const MAX_SOURCE: usize = 256 << 10;
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: &str) -> Result<Self, TextError> {
        if source.len() > MAX_SOURCE {
            let cause = format!("{} bytes long, at most {MAX_SOURCE} are taken", source.len());
            return Err(TextError::Template { line: None, cause });
        }
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(false)
                .build()
                .map_err(|error| failure(&error))?,
        );
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_formatter(python::print);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::to_json);
        environment.add_test("iterable", python::is_iterable);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        on_deep_stack(|| environment.add_template_owned(NAME, source.to_owned()))?;
        Ok(Self { environment })
    }

    /// The template of a checkpoint: the contents of `chat_template.jinja` if it has that file,
    /// else the `chat_template` entry of `tokenizer_config.json` (a string, or a list of named
    /// templates of which `default` is taken). `None` where there is neither.
    ///
    /// # Errors
    /// The configuration is not JSON or its entry has another form; or as [`new`](Self::new).
    pub fn find(
        jinja_file: Option<&str>,
        tokenizer_config: Option<&str>,
    ) -> Result<Option<Self>, TextError> {
        let source = match (jinja_file, tokenizer_config) {
            (Some(source), _) => Some(source.to_owned()),
            (None, Some(config)) => template_entry(config)?,
            (None, None) => None,
        };
        source.map(|source| Self::new(&source)).transpose()
    }

    /// The prompt text of a conversation.
    ///
    /// The template sees `messages`, `tools` (None without tools), `add_generation_prompt` and
    /// every entry of `kwargs`, as they are: [`ChatInput::new`] and [`ChatInput::from_json`] are
    /// what brings OpenAI messages into the form that templates expect.
    ///
    /// # Errors
    /// The template fails, calls `raise_exception`, or goes past a limit of the sandbox.
    pub fn render(&self, input: &ChatInput) -> Result<String, TextError> {
        let mut context = input.kwargs.clone();
        context.entry("add_generation_prompt").or_insert(input.add_generation_prompt.into());
        context.insert("messages".into(), input.messages.clone());
        context.insert("tools".into(), input.tools.clone().unwrap_or_default());
        let bytes = serde_json::to_string(&context)?.len() as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_STEPS + STEPS_PER_BYTE * bytes));
        let mut output = Bounded(Vec::new());
        on_deep_stack(|| {
            let template = environment.get_template(NAME)?;
            template.render_captured_to(Serde(context), &mut output).map(drop)
        })?;
        // The engine writes whole strings.
        Ok(String::from_utf8_lossy(&output.0).into_owned())
    }
}

/// Runs the template engine on a thread of its own, with a deep stack.
fn on_deep_stack(work: impl FnOnce() -> Result<(), Error> + Send) -> Result<(), TextError> {
    let stopped = |cause: String| TextError::Template { line: None, cause };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| stopped(format!("no thread to run it: {error}")))?
            .join()
            .map_err(|_| stopped("the template engine panicked".into()))?
            .map_err(|error| failure(&error))
    })
}

/// The `chat_template` entry of a `tokenizer_config.json`.
fn template_entry(config: &str) -> Result<Option<String>, TextError> {
    use serde_json::Value;
    let wrong = |what: String| TextError::TokenizerConfig(format!("chat_template: {what}"));
    let config: Value = serde_json::from_str(config)
        .map_err(|error| TextError::TokenizerConfig(format!("not JSON: {error}")))?;
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let source = default.and_then(|entry| entry["template"].as_str());
            let missing = || wrong("found a list without the name \"default\"".into());
            source.map(|source| Some(source.to_owned())).ok_or_else(missing)
        }
        Some(other) => {
            let found = input::kind(other);
            Err(wrong(format!("found {found}, wanted a string or a list of named templates")))
        }
    }
}

fn failure(error: &Error) -> TextError {
    let cause = match error.kind() {
        ErrorKind::OutOfFuel => {
            "stopped: it took more steps than a conversation of this size needs (an endless loop?)"
                .into()
        }
        ErrorKind::WriteFailure => {
            format!("stopped: its output is longer than {} MiB", MAX_OUTPUT >> 20)
        }
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    TextError::Template { line: error.line(), cause }
}

/// Output that refuses to grow past [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Result<String, TextError> {
        let mut input = ChatInput::new(json!([{"role": "user", "content": "hi"}])).unwrap();
        input.kwargs.insert("n".into(), json!({"one": 1, "items": [2]}));
        ChatTemplate::new(source)?.render(&input)
    }

    fn failure_of(source: &str) -> String {
        render(source).unwrap_err().to_string()
    }

    #[test]
    fn what_the_template_sees() {
        assert_eq!(
            render("{{ tools }}{{ add_generation_prompt }}{{ n.one }}").unwrap(),
            "NoneTrue1"
        );
        assert_eq!(render("{{ messages[-1]['content'] }}\n").unwrap(), "hi");
        // A key named like a method does not hide the method.
        assert_eq!(
            render("{% for k, v in n.items() %}{{ k }}={{ v }};{% endfor %}").unwrap(),
            "one=1;items=[2];"
        );
    }

    #[test]
    fn undefined_is_empty_but_has_no_attributes() {
        let source = "[{{ messages[0].name }}]{% if messages[0].x is not defined %}no{% endif %}";
        assert_eq!(render(source).unwrap(), "[]no");
        assert_eq!(render("{% for x in n.none %}{{ x }}{% endfor %}").unwrap(), "");
        assert_eq!(failure_of("\n{{ n.none.deeper }}"), "chat template, line 2: undefined value");
    }

    const DOUBLED: &str = "{% set ns = namespace(x=['x' * 1000], y=[1]) %}{% for i in range(60) %}\
        {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";

    #[test]
    fn a_template_that_loops_is_stopped() {
        let nested =
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let grows = "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        for source in [nested, grows, &format!("{DOUBLED}{{{{ ns.y | tojson }}}}")] {
            let message = failure_of(source);
            assert!(message.contains("stopped: it took more steps than"), "{message}");
        }
    }

    #[test]
    fn a_huge_output_is_stopped() {
        let long = "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}";
        let json = format!("{DOUBLED}{{{{ ns.x | tojson }}}}");
        let printed = format!("{DOUBLED}{{{{ ns.x }}}}");
        for source in [long, &json, &printed] {
            let message = failure_of(source);
            assert!(message.contains("longer than 32 MiB"), "{message}");
        }
    }

    #[test]
    fn recursion_is_stopped() {
        let message = failure_of("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}");
        assert!(message.contains("recursion limit"), "{message}");
        let nested = "{% set ns = namespace(x=[]) %}{% for j in range(9) %}{% for i in range(9999) %}\
            {% set ns.x = [ns.x] %}{% endfor %}{% endfor %}{% if ns.x == [ns.x] %}{% endif %}{{ ns.x }}";
        let message = failure_of(nested);
        assert!(message.contains("nested deeper than 200 levels"), "{message}");
        let minuses = format!("{{{{ {}1 }}}}", "-".repeat(200_000));
        assert_eq!(render(&minuses).unwrap(), "1");
    }

    #[test]
    fn the_templates_own_error_and_syntax_errors_are_told() {
        assert_eq!(
            failure_of("{{ raise_exception('roles must alternate') }}"),
            "chat template, line 1: invalid operation: roles must alternate"
        );
        let message = failure_of("a\n{% if x %}");
        assert!(message.starts_with("chat template, line 2: syntax error: "), "{message}");
    }

    #[test]
    fn the_file_wins_over_the_configuration() {
        let text = |jinja, config| {
            let template = ChatTemplate::find(jinja, config).unwrap()?;
            Some(template.render(&ChatInput::new(json!([])).unwrap()).unwrap())
        };
        let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(text(Some("file"), Some(named)).as_deref(), Some("file"));
        assert_eq!(text(None, Some(named)).as_deref(), Some("d"));
        assert_eq!(text(None, Some(r#"{"chat_template": "c"}"#)).as_deref(), Some("c"));
        assert_eq!((text(None, Some("{}")), text(None, None)), (None, None));
        let message = |config| ChatTemplate::find(None, Some(config)).unwrap_err().to_string();
        assert_eq!(
            message(r#"{"chat_template": 3}"#),
            "tokenizer_config.json: chat_template: found a number, wanted a string or a list of named templates"
        );
        assert_eq!(
            message(r#"{"chat_template": []}"#),
            "tokenizer_config.json: chat_template: found a list without the name \"default\""
        );
        assert!(message("[").starts_with("tokenizer_config.json: not JSON: "));
    }
}
