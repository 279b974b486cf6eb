//! `glm run` without a prompt, on a terminal: a conversation.

use std::path::Path;

use anyhow::{Result, ensure};
use glm_runtime::{Engine, Finish, Request, Timings};
use serde_json::{Map, Value};

use super::{Outcome, run};
use crate::answer::answer;
use crate::args::OutputArgs;
use crate::conversation::Conversation;
use crate::editor::{Editor, Line};
use crate::{resolve, ui};

/// Usage and explanation; completed by the editor, listed by /help.
const COMMANDS: &[(&str, &str)] = &[
    ("/help", "this list"),
    ("/clear", "forget the conversation, keep the system prompt"),
    ("/system TEXT", "set the system prompt; without TEXT show it, \"\" removes it"),
    ("/think on|off", "think before answering, or answer at once"),
    ("/stats", "speed of the last answer, length of the conversation"),
    ("/save FILE", "write the conversation as OpenAI messages (JSON)"),
    ("/load FILE", "continue a saved conversation"),
    ("/exit", "leave (also Ctrl-D)"),
];

const KEYS: &str = "Enter sends; Alt-Enter, or \\ before Enter, starts a new line. \
    Ctrl-C stops an answer, twice leaves. Up and Ctrl-R search the history.";

/// A conversation in progress.
#[derive(Debug)]
pub(crate) struct Session {
    engine: Engine,
    model: String,
    conversation: Conversation,
    /// Variables of the chat template.
    arguments: Map<String, Value>,
    /// The next request, but for its prompt.
    request: Request,
    hide_thinking: bool,
    verbose: bool,
    last: Option<Timings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Prompt,
    /// Like [`Next::Prompt`], and one more Ctrl-C leaves.
    PromptAfterInterrupt,
    Leave,
}

impl Session {
    /// `conversation` may hold a system prompt, `request` everything but the prompt.
    pub(crate) fn new(
        engine: Engine,
        model: String,
        conversation: Conversation,
        arguments: Map<String, Value>,
        request: Request,
        output: &OutputArgs,
    ) -> Self {
        let (hide_thinking, verbose) = (output.hide_thinking, output.verbose);
        Self { engine, model, conversation, arguments, request, hide_thinking, verbose, last: None }
    }
}

/// Talks until the user leaves.
pub(crate) fn chat(mut session: Session) -> Result<Outcome> {
    ui::message(format!("Chat with {}. /help lists the commands, Ctrl-D leaves.", session.model));
    let mut editor = Editor::new(COMMANDS, resolve::history_file().as_deref());
    let mut next = Next::Prompt;
    loop {
        next = match editor.read()? {
            Line::End => return Ok(Outcome::Done),
            Line::Leave => return Ok(Outcome::Interrupted),
            Line::Interrupt if next == Next::PromptAfterInterrupt => {
                return Ok(Outcome::Interrupted);
            }
            Line::Interrupt => {
                ui::note("Ctrl-C once more leaves");
                Next::PromptAfterInterrupt
            }
            Line::Text(text) if text.trim().is_empty() => Next::Prompt,
            Line::Text(text) => session.take(&text)?,
        };
        if next == Next::Leave {
            return Ok(Outcome::Done);
        }
    }
}

impl Session {
    /// One input: a command or a message. What goes wrong is said, and the chat goes on,
    /// unless the screen itself is gone.
    fn take(&mut self, text: &str) -> Result<Next> {
        let done = match text.trim_end().strip_prefix('/') {
            Some(command) => self.command(command),
            // A pasted text often ends with a line end that nobody meant.
            None => self.say(text.trim_end_matches('\n')),
        };
        match done {
            Err(error) if error.downcast_ref::<ui::OutputError>().is_none() => {
                ui::error(&error);
                Ok(Next::Prompt)
            }
            done => done,
        }
    }

    fn command(&mut self, command: &str) -> Result<Next> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = argument.trim();
        match name {
            "help" | "?" => help(),
            "clear" => {
                self.conversation.clear();
                ui::note("the conversation starts anew");
            }
            "system" => self.system(argument),
            "think" => self.think(argument)?,
            "stats" => self.stats()?,
            "save" => {
                ensure!(!argument.is_empty(), "/save needs a FILE");
                self.conversation.write(Path::new(argument))?;
                ui::note(format!(
                    "saved {} messages to {argument}",
                    self.conversation.messages.len()
                ));
            }
            "load" => {
                ensure!(!argument.is_empty(), "/load needs a FILE");
                self.conversation = Conversation::read(Path::new(argument))?;
                ui::note(format!("loaded {argument}: {}", self.length()));
            }
            "exit" | "quit" | "bye" => return Ok(Next::Leave),
            _ => ui::message(format!(
                "/{name} is no command; /help lists them. A space first sends it as text."
            )),
        }
        Ok(Next::Prompt)
    }

    fn system(&mut self, text: &str) {
        match text {
            "" => ui::message(self.conversation.system().unwrap_or("no system prompt")),
            "\"\"" => {
                self.conversation.set_system("");
                ui::note("system prompt removed");
            }
            text => {
                self.conversation.set_system(text);
                ui::note("system prompt set; it holds from the next answer on");
            }
        }
    }

    fn think(&mut self, argument: &str) -> Result<()> {
        let on = match argument {
            "on" => true,
            "off" => false,
            _ => anyhow::bail!("/think needs `on` or `off`"),
        };
        self.arguments.insert("enable_thinking".to_owned(), on.into());
        ui::note(if on { "thinking is on" } else { "thinking is off" });
        Ok(())
    }

    fn stats(&self) -> Result<()> {
        let files = self.engine.files();
        let held = match self.conversation.messages.is_empty() {
            true => 0,
            false => resolve::render(files, &self.conversation, &self.arguments)?.0.len(),
        };
        ui::message(format!("model: {}, computing in {}", self.model, self.engine.dtype().name()));
        ui::message(format!(
            "conversation: {}, {held} of {} tokens",
            self.length(),
            self.engine.context_length(),
        ));
        ui::message(self.last.as_ref().map_or_else(|| "no answer yet".to_owned(), run::speeds));
        Ok(())
    }

    fn length(&self) -> String {
        match self.conversation.messages.len() {
            1 => "1 message".to_owned(),
            messages => format!("{messages} messages"),
        }
    }

    /// Sends a message and shows the answer. A message that fails is forgotten again, so
    /// that the next one does not fail for the same reason; so is one without any answer.
    fn say(&mut self, text: &str) -> Result<Next> {
        let before = self.conversation.messages.len();
        self.conversation.push_user(text);
        let next = self.reply();
        let answered = self.conversation.messages.len() > before + 1;
        if !answered {
            self.conversation.messages.truncate(before);
        }
        next
    }

    fn reply(&mut self) -> Result<Next> {
        let (prompt, start) =
            resolve::render(self.engine.files(), &self.conversation, &self.arguments)?;
        let context = self.engine.context_length();
        ensure!(
            prompt.len() < context,
            "the conversation has {} tokens and the context holds {context}: \
             /save FILE keeps it, /clear starts anew",
            prompt.len(),
        );
        self.request.prompt = prompt;
        let mut printer = ui::Printer::new(self.hide_thinking);
        let answer =
            answer(&self.engine, &self.request, Some(start), &mut |part| printer.part(part))?;
        printer.finish()?;
        if self.last.is_none() {
            run::warn_of_launches(&self.engine);
        }
        let stopped_early = answer.text.is_empty() && answer.reasoning.is_none();
        if answer.completion.finish == Finish::Aborted && stopped_early {
            ui::note("stopped before the answer: the message is forgotten; Ctrl-C again leaves");
            return Ok(Next::PromptAfterInterrupt);
        }
        self.conversation.push_assistant(&answer.text, answer.reasoning.as_deref());
        let completion = answer.completion;
        if self.verbose {
            ui::message(run::speeds(&completion.timings));
        }
        self.last = Some(completion.timings);
        Ok(match completion.finish {
            Finish::Aborted => {
                ui::note("stopped, what came is kept; Ctrl-C again leaves");
                Next::PromptAfterInterrupt
            }
            Finish::Length => {
                ui::note("the answer was cut off: --max-tokens or the context is reached");
                Next::Prompt
            }
            Finish::Stop | Finish::Deadline => Next::Prompt,
        })
    }
}

fn help() {
    let width = COMMANDS.iter().map(|(usage, _)| usage.len()).max().unwrap_or(0);
    for (usage, meaning) in COMMANDS {
        ui::message(format!("  {usage:width$}  {meaning}"));
    }
    ui::message(KEYS);
}
