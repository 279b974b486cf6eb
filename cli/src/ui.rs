//! All printing. Standard output carries model text (or the JSON and tables that were
//! asked for) and nothing else; notes, thinking off a terminal, progress bars and errors
//! go to standard error.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::{panic, thread};

use anstream::{AutoStream, ColorChoice};
use anstyle::Style;
use glm_server::parse::Part;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const DIM: Style = Style::new().dimmed();

/// One short line about what was chosen or done.
pub(crate) fn note(text: impl Display) {
    stderr_line(&format!("{DIM}{}{DIM:#}", printable(&text.to_string())));
}

/// One line about something that is not as asked, though the command goes on.
pub(crate) fn warning(text: impl Display) {
    stderr_line(&format!("warning: {}", printable(&text.to_string())));
}

/// Text of the chat itself (help, statistics): on standard error, not dimmed.
pub(crate) fn message(text: impl Display) {
    stderr_line(&printable(&text.to_string()));
}

/// `error: what: why: deeper why`, on one line.
pub(crate) fn error(error: &anyhow::Error) {
    stderr_line(&format!("error: {}", printable(&one_line(error))));
}

/// Standard output took what was written, or not.
pub(crate) type Shown = Result<(), OutputError>;

/// Nothing more can be shown.
#[derive(Debug)]
pub(crate) struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader of a pipe, `head` say, has seen enough.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl std::error::Error for OutputError {}

impl Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

/// Prints to standard output as it is.
pub(crate) fn output(text: &str) -> Shown {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(OutputError)
}

/// Whether somebody can type at this program.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard error shows colours: a terminal, and NO_COLOR and the like permit.
pub(crate) fn colours() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

fn stderr_line(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// The chain of causes joined by ": ". A cause that the message before it already
/// quotes is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that cannot steer a terminal: control characters other than newline and tab
/// become U+FFFD.
fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{FFFD}' } else { c };
    text.chars().map(harmless).collect()
}

/// Shows the parts of one answer as they come.
#[derive(Debug)]
pub(crate) struct Printer {
    thinking: Thinking,
    stdout_is_terminal: bool,
    section: Section,
    /// Newlines of the thinking that are shown only if more thinking follows.
    held_newlines: usize,
    /// Whether the answer so far ends a line.
    line_is_complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thinking {
    Hidden,
    OnStdout,
    OnStderr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Nothing,
    Thinking,
    AnswerStart,
    Answer,
}

impl Printer {
    /// For one answer; thinking goes to standard error unless standard output is a terminal.
    pub(crate) fn new(hide_thinking: bool) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let thinking = match (hide_thinking, stdout_is_terminal) {
            (true, _) => Thinking::Hidden,
            (false, true) => Thinking::OnStdout,
            (false, false) => Thinking::OnStderr,
        };
        Self {
            thinking,
            stdout_is_terminal,
            section: Section::Nothing,
            held_newlines: 0,
            line_is_complete: true,
        }
    }

    /// Shows the next part.
    pub(crate) fn part(&mut self, part: &Part) -> Shown {
        match part {
            Part::Reasoning(text) => self.reasoning(text),
            Part::Text(text) => self.text(text),
            Part::Call { .. } | Part::Arguments(_) | Part::CallEnd => Ok(()),
        }
    }

    /// Ends the last line.
    pub(crate) fn finish(&mut self) -> Shown {
        self.end_thinking()?;
        if self.line_is_complete { Ok(()) } else { output("\n") }
    }

    fn reasoning(&mut self, text: &str) -> Shown {
        if self.thinking == Thinking::Hidden {
            return Ok(());
        }
        let mut text = text;
        if self.section != Section::Thinking {
            text = text.trim_start_matches('\n');
            if text.is_empty() {
                return Ok(());
            }
            self.section = Section::Thinking;
            // Without colours the dim style cannot set the thinking apart.
            let without_colours = AutoStream::choice(&io::stdout()) == ColorChoice::Never;
            if self.thinking == Thinking::OnStdout && without_colours {
                self.dim("[thinking] ")?;
            }
        }
        let body = text.trim_end_matches('\n');
        if !body.is_empty() {
            let held = "\n".repeat(self.held_newlines);
            self.dim(&format!("{held}{}", printable(body)))?;
            self.held_newlines = 0;
        }
        self.held_newlines += text.len() - body.len();
        Ok(())
    }

    fn text(&mut self, text: &str) -> Shown {
        if text.is_empty() {
            return Ok(());
        }
        self.end_thinking()?;
        if !self.stdout_is_terminal {
            self.line_is_complete = text.ends_with('\n');
            return output(text);
        }
        let text =
            if self.section == Section::Answer { text } else { text.trim_start_matches('\n') };
        if !text.is_empty() {
            self.section = Section::Answer;
            self.line_is_complete = text.ends_with('\n');
            output(&printable(text))?;
        }
        Ok(())
    }

    fn end_thinking(&mut self) -> Shown {
        if self.section != Section::Thinking {
            return Ok(());
        }
        self.section = Section::AnswerStart;
        self.held_newlines = 0;
        self.dim(if self.thinking == Thinking::OnStdout { "\n\n" } else { "\n" })
    }

    /// Each piece carries its own reset, so that leaving at any moment leaves no dim terminal.
    fn dim(&self, text: &str) -> Shown {
        match self.thinking {
            Thinking::Hidden => Ok(()),
            Thinking::OnStdout => {
                let mut stdout = anstream::stdout().lock();
                let written = write!(stdout, "{DIM}{text}{DIM:#}");
                written.and_then(|()| stdout.flush()).map_err(OutputError)
            }
            Thinking::OnStderr => {
                let _ = write!(anstream::stderr().lock(), "{DIM}{text}{DIM:#}");
                Ok(())
            }
        }
    }
}

/// A progress bar on standard error, invisible when that is not a terminal.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// Counts bytes.
    pub(crate) fn bytes(what: impl Into<String>) -> Self {
        Self::new("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}", what)
    }

    /// Counts bytes, the first `done` of which are not of this run and do not count for the speed.
    pub(crate) fn bytes_after(what: impl Into<String>, done: u64) -> Self {
        let bar = Self::bytes(what);
        // The bar learns, unseen, where it starts, and forgets how fast it got there.
        bar.bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set(done, done);
        bar.bar.tick();
        bar.bar.reset_eta();
        bar.bar.set_draw_target(ProgressDrawTarget::stderr());
        bar
    }

    /// Counts tokens.
    pub(crate) fn tokens(what: impl Into<String>) -> Self {
        Self::new("{msg} {wide_bar} {pos}/{len} tokens {eta}", what)
    }

    /// Counts requests.
    pub(crate) fn requests(what: impl Into<String>) -> Self {
        Self::new("{msg} {wide_bar} {pos}/{len} requests {eta}", what)
    }

    /// Counts cases of operations.
    pub(crate) fn cases(what: impl Into<String>) -> Self {
        Self::new("{msg} {wide_bar} {pos}/{len} cases", what)
    }

    fn new(template: &str, what: impl Into<String>) -> Self {
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(0).with_style(style).with_message(printable(&what.into())) }
    }

    /// How much is done, of how much.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From here on a panic is noted instead of printed; [`internal_error`] prints the notes.
/// A panic that a library catches (a driver probe, say) stays unseen.
pub(crate) fn note_panics() {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let what = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic".to_owned());
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let thread =
            thread::current().name().map_or_else(String::new, |name| format!(" in thread {name}"));
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(format!("{what}{}{thread}", place.unwrap_or_default()));
        }
    }));
}

/// `internal error: …` on one line, after a panic reached the top.
pub(crate) fn internal_error() {
    let panics = PANICS.lock().map(|panics| panics.clone()).unwrap_or_default();
    let mut what = panics.last().cloned().unwrap_or_else(|| "unknown".to_owned());
    // A device thread that panicked first is usually the cause.
    if let Some(earlier) = panics.iter().rev().nth(1) {
        what = format!("{what} (after: {earlier})");
    }
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    stderr_line(&format!(
        "internal error: {}; this is a fault of glm {}, please report it with the command",
        printable(&what),
        env!("CARGO_PKG_VERSION")
    ));
}

/// Rows under a heading, each column as wide as its widest cell; the last is not padded.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&heading).chain(rows).collect();
    let columns = heading.len();
    let width = |column: usize| {
        // A row that is cut short says something as long as it likes in its last cell.
        let cells = lines
            .iter()
            .filter(|line| line.len() > column + 1)
            .map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let last = column + 1 == line.len();
            let width = if last { 0 } else { widths[column] };
            text += &format!("{cell:width$}{}", if last { "\n" } else { "  " });
        }
    }
    text
}

/// `1234567` as `1.23 M`: for numbers of things.
pub(crate) fn count(number: u64) -> String {
    scaled(number as f64, 1000.0, &["", " K", " M", " B", " T"])
}

/// `1234567` as `1.18 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// `1234567` as `1.23 MB`: in the units that memory and checkpoints are sold in.
pub(crate) fn decimal_bytes(number: u64) -> String {
    scaled(number as f64, 1000.0, &[" B", " KB", " MB", " GB", " TB"])
}

fn scaled(number: f64, base: f64, units: &[&str]) -> String {
    let mut scaled = number;
    let mut unit = 0;
    while scaled >= base && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    let decimals = if unit == 0 { 0 } else { 2 };
    format!("{scaled:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_and_says_nothing_twice() {
        let cause = anyhow!("no such\nfile");
        let chained = cause.context("reading a: no such\nfile").context("opening the model");
        assert_eq!(one_line(&chained), "opening the model: reading a: no such file");
    }

    #[test]
    fn model_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\tb\n\u{1b}[2J\u{9b}c"), "a\tb\n\u{FFFD}[2J\u{FFFD}c");
        assert_eq!(printable("你好 🐱"), "你好 🐱");
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned(), "c".to_owned()],
            vec!["longer".to_owned(), "none: why".to_owned()],
        ];
        assert_eq!(
            table(&["X", "Y", "Z"], &rows),
            "X       Y   Z\na       bb  c\nlonger  none: why\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(count(999), "999");
        assert_eq!(count(106_852_245_504), "106.85 B");
        assert_eq!(bytes(188_416), "184.00 KiB");
        assert_eq!(decimal_bytes(188_416), "188.42 KB");
    }
}
