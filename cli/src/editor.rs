//! The line editor of the chat: history, completion of commands, input of several lines.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use reedline::{
    ColumnarMenu, Completer, CompletionResult, DefaultPrompt, DefaultPromptSegment, Emacs,
    FileBackedHistory, Highlighter, History, HistoryItem, HistoryItemId, HistorySessionId, KeyCode,
    KeyModifiers, MenuBuilder, Reedline, ReedlineEvent, ReedlineMenu, SearchQuery, Signal, Span,
    StyledText, Suggestion, ValidationResult, Validator, default_emacs_keybindings,
};

use crate::interrupt::Prompting;
use crate::ui;

const HISTORY_LINES: usize = 1000;
const MENU: &str = "commands";

/// What came of one prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Text, possibly of several lines.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the terminal is gone.
    End,
    /// A signal asks the program to leave.
    Leave,
}

/// A prompt on the terminal. Enter sends; Alt-Enter, or a backslash before Enter, goes on
/// to the next line; pasted line ends do not send.
pub(crate) struct Editor {
    reedline: Reedline,
    prompt: DefaultPrompt,
    continued: Continued,
}

/// The text before each backslash-and-Enter of the current input.
type Continued = Arc<Mutex<Vec<String>>>;

impl Editor {
    /// `commands` are offered as completions; what is typed is kept in `history` where
    /// that file can be written.
    pub(crate) fn new(
        commands: &'static [(&'static str, &'static str)],
        history: Option<&Path>,
    ) -> Self {
        let continued = Continued::default();
        let mut keys = default_emacs_keybindings();
        let complete = vec![ReedlineEvent::Menu(MENU.to_owned()), ReedlineEvent::MenuNext];
        keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, ReedlineEvent::UntilFound(complete));
        let opened = history.map(|file| FileBackedHistory::with_file(HISTORY_LINES, file.into()));
        let history = opened.transpose().unwrap_or_else(|error| {
            ui::warning(format!("the history of this chat is not kept: {error}"));
            None
        });
        let history = Joined(history.unwrap_or_default(), Arc::clone(&continued));
        let reedline = Reedline::create()
            .with_history(Box::new(history))
            .with_break_signal(Prompting::end())
            .use_bracketed_paste(true)
            .with_ansi_colors(ui::colours())
            .with_validator(Box::new(Backslash(Arc::clone(&continued))))
            .with_highlighter(Box::new(PlainText))
            .with_completer(Box::new(Commands(commands)))
            .with_quick_completions(true)
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(
                ColumnarMenu::default().with_name(MENU),
            )))
            .with_edit_mode(Box::new(Emacs::new(keys)));
        let prompt = DefaultPrompt::new(DefaultPromptSegment::Empty, DefaultPromptSegment::Empty);
        Self { reedline, prompt, continued }
    }

    /// Waits for one input.
    pub(crate) fn read(&mut self) -> Result<Line> {
        self.continued.lock().expect("no holder panics").clear();
        let prompting = Prompting::begin();
        let signal = self.reedline.read_line(&self.prompt);
        drop(prompting);
        match signal.context("cannot read from the terminal")? {
            Signal::Success(text) => {
                // A closed terminal must not lose the line.
                let _ = self.reedline.sync_history();
                Ok(Line::Text(join(text, &self.continued.lock().expect("no holder panics"))))
            }
            Signal::CtrlC => Ok(Line::Interrupt),
            Signal::ExternalBreak(_) => {
                ui::message("");
                Ok(Line::Leave)
            }
            _ => Ok(Line::End),
        }
    }
}

/// Removes the backslashes that only asked for another line. One that was pasted, or
/// whose surroundings were edited afterwards, is part of the text.
fn join(mut text: String, continued: &[String]) -> String {
    for before in continued.iter().rev() {
        if text.strip_prefix(before.as_str()).is_some_and(|rest| rest.starts_with('\n')) {
            text.remove(before.len() - 1);
        }
    }
    text
}

/// A history of what was sent, not of what was typed: a recalled backslash would be sent.
struct Joined(FileBackedHistory, Continued);

impl History for Joined {
    fn save(&mut self, mut item: HistoryItem) -> reedline::Result<HistoryItem> {
        let continued = self.1.lock().expect("no holder panics");
        item.command_line = join(item.command_line, &continued);
        self.0.save(item)
    }

    fn load(&self, id: HistoryItemId) -> reedline::Result<HistoryItem> {
        self.0.load(id)
    }

    fn count(&self, query: SearchQuery) -> reedline::Result<i64> {
        self.0.count(query)
    }

    fn search(&self, query: SearchQuery) -> reedline::Result<Vec<HistoryItem>> {
        self.0.search(query)
    }

    fn update(
        &mut self,
        id: HistoryItemId,
        updater: &dyn Fn(HistoryItem) -> HistoryItem,
    ) -> reedline::Result<()> {
        self.0.update(id, updater)
    }

    fn clear(&mut self) -> reedline::Result<()> {
        self.0.clear()
    }

    fn delete(&mut self, id: HistoryItemId) -> reedline::Result<()> {
        self.0.delete(id)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn session(&self) -> Option<HistorySessionId> {
        self.0.session()
    }
}

/// The terminal's own colour: the editor's white is not seen on a white background.
struct PlainText;

impl Highlighter for PlainText {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let mut text = StyledText::new();
        text.push((Default::default(), line.to_owned()));
        text
    }
}

struct Backslash(Continued);

impl Validator for Backslash {
    fn validate(&self, line: &str) -> ValidationResult {
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        if backslashes.is_multiple_of(2) {
            return ValidationResult::Complete;
        }
        self.0.lock().expect("no holder panics").push(line.to_owned());
        ValidationResult::Incomplete
    }
}

/// Name and explanation of each command.
struct Commands(&'static [(&'static str, &'static str)]);

impl Completer for Commands {
    fn complete(&mut self, line: &str, position: usize) -> CompletionResult {
        let typed = &line[..position];
        let names = self.0.iter().filter_map(|(usage, _)| usage.split(' ').next());
        let fitting = names.filter(|name| typed.starts_with('/') && name.starts_with(typed));
        let suggestion = |name: &str| Suggestion {
            value: name.to_owned(),
            span: Span::new(0, position),
            append_whitespace: true,
            ..Suggestion::default()
        };
        CompletionResult::fresh(fitting.map(suggestion).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_typed_backslashes_continue_the_line() {
        let continued = Continued::default();
        let validator = Backslash(Arc::clone(&continued));
        let incomplete =
            |text: &str| matches!(validator.validate(text), ValidationResult::Incomplete);
        assert!(incomplete("one\\"));
        assert!(incomplete("one\\\ntwo\\"));
        assert!(!incomplete("one\\\ntwo\\\nthree"));
        assert!(!incomplete("a path\\\\"));
        let continued = continued.lock().expect("no holder panics");
        assert_eq!(join("one\\\ntwo\\\nthree".into(), &continued), "one\ntwo\nthree");
        assert_eq!(join("pasted\\\ntext".into(), &continued), "pasted\\\ntext");
    }

    #[test]
    fn the_history_keeps_what_was_sent() -> reedline::Result<()> {
        let continued = Arc::new(Mutex::new(vec!["a\\".to_owned()]));
        let mut history = Joined(FileBackedHistory::default(), continued);
        history.save(HistoryItem::from_command_line("a\\\nb"))?;
        assert_eq!(history.load(HistoryItemId::new(0))?.command_line, "a\nb");
        Ok(())
    }

    #[test]
    fn commands_complete_from_their_first_letters() {
        let mut commands = Commands(&[("/save FILE", ""), ("/stats", ""), ("/help", "")]);
        let mut names = |typed: &str| -> Vec<String> {
            let found = commands.complete(typed, typed.len());
            found.suggestions().iter().map(|suggestion| suggestion.value.clone()).collect()
        };
        assert_eq!(names("/s"), ["/save", "/stats"]);
        assert_eq!(names("/h"), ["/help"]);
        assert!(names("s").is_empty() && names("/save x").is_empty());
    }
}
