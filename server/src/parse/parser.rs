//! Thought, answer and calls, told apart by their tags.

use glm_models::chat::GLM4;

use super::call::Call;
use super::{Part, Tools};

const OPEN: &str = GLM4.think_open;
const CLOSE: &str = GLM4.think_close;
pub(super) const CALL: &str = GLM4.tool_call_open;
pub(super) const CALL_END: &str = GLM4.tool_call_close;
/// Where a turn begins: tags of earlier turns say nothing about this one.
const ROLES: [&str; 4] = GLM4.roles;

/// Takes the model's text apart.
///
/// A thought is what follows an opening tag, which the prompt has written already
/// ([`Start::Inside`]) or which the model writes first (with white space before it at most). It
/// ends at `</think>` or at a tool call. Further `<think>` in a thought and `</think>` in an
/// answer are dropped.
///
/// A call is `<tool_call>`, the name of one of the tools, and arguments, whatever white space is
/// between them. What begins like a call and names no tool is text, and so is a call that ended
/// before its name did. Tags that the model forgot within a call are put in where there is only one
/// way to read it. White space is kept, but for that of an answer that has nothing else beside calls.
///
/// The joined parts do not depend on how the text is cut into pushes: what may become a tag waits
/// for the next push, all else comes at once.
#[derive(Debug)]
pub struct Parser {
    state: State,
    tools: Tools,
    /// Whether tags of thoughts mean something.
    thinks: bool,
    waiting: String,
    /// White space at the beginning of the answer.
    blank: String,
    /// Whether the answer has more than white space.
    has_text: bool,
    has_calls: bool,
    call: Option<Call>,
}

/// Where the model's text starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Before a thought or an answer.
    Outside,
    /// In a thought that the prompt has opened.
    Inside,
    /// In an answer in which tags of thoughts are text like any other.
    Answer,
}

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it: what is open is complete.
    Complete,
    /// It was cut short: nothing is made up.
    Cut,
}

impl Start {
    /// What the end of a prompt says: inside if its last turn opens a thought, at its beginning
    /// or at its very end, and does not close it.
    pub fn after(prompt: &str) -> Self {
        let end_of = |role: &&str| prompt.rfind(role).map(|at| at + role.len());
        let turn = prompt[ROLES.iter().filter_map(end_of).max().unwrap_or(0)..].trim();
        let opened = turn.rfind(OPEN).filter(|_| turn.starts_with(OPEN) || turn.ends_with(OPEN));
        let closed = turn.rfind(CLOSE).max(turn.rfind(CALL));
        if opened > closed { Self::Inside } else { Self::Outside }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only white space so far.
    Beginning,
    Reasoning,
    Text,
    /// After the opening tag of what may be a call.
    Name {
        in_thought: bool,
    },
    /// What looks like a call and is none.
    NoCall,
    /// In a call.
    Call,
}

/// How far one look at the waiting text came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Made,
    /// More text has to come.
    Waits,
}

impl Parser {
    /// A parser of the text that follows a prompt; see [`Start::after`]. Without tools, nothing is a
    /// call.
    pub fn new(start: Start, tools: Tools) -> Self {
        let state = match start {
            Start::Outside => State::Beginning,
            Start::Inside => State::Reasoning,
            Start::Answer => State::Text,
        };
        Self {
            state,
            tools,
            thinks: start != Start::Answer,
            waiting: String::new(),
            blank: String::new(),
            has_text: false,
            has_calls: false,
            call: None,
        }
    }

    /// Whether the text is in a thought as far as it is certain.
    pub fn is_in_thought(&self) -> bool {
        matches!(self.state, State::Reasoning | State::Name { in_thought: true })
    }

    /// Adds text and returns the parts that became certain, none of them empty.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.waiting.push_str(text);
        let mut parts = Vec::new();
        while self.step(None, &mut parts) == Progress::Made {}
        parts
    }

    /// Ends the text and returns what was waiting.
    pub fn finish(&mut self, ending: Ending) -> Vec<Part> {
        let mut parts = Vec::new();
        while self.step(Some(ending), &mut parts) == Progress::Made {}
        let rest = std::mem::take(&mut self.waiting);
        self.emit(rest, &mut parts);
        if !self.has_calls {
            push(&mut parts, Part::Text(std::mem::take(&mut self.blank)));
        }
        parts
    }

    /// Looks at the waiting text once; with `ending`, nothing comes after it.
    fn step(&mut self, ending: Option<Ending>, parts: &mut Vec<Part>) -> Progress {
        match self.state {
            State::Beginning => self.begin(ending),
            State::Name { in_thought } => self.name(in_thought, ending, parts),
            State::Call => self.in_call(ending, parts),
            State::Reasoning | State::Text | State::NoCall => self.plain(ending, parts),
        }
    }

    /// Leaves the beginning once the text shows what it is.
    fn begin(&mut self, ending: Option<Ending>) -> Progress {
        let text = self.waiting.trim_start();
        if let Some(thought) = text.strip_prefix(OPEN) {
            self.waiting.drain(..self.waiting.len() - thought.len());
            self.state = State::Reasoning;
        } else if !OPEN.starts_with(text) || ending.is_some() {
            self.state = State::Text;
        } else {
            return Progress::Waits;
        }
        Progress::Made
    }

    /// Text up to the next tag that means something.
    fn plain(&mut self, ending: Option<Ending>, parts: &mut Vec<Part>) -> Progress {
        let tags: &[&str] = match (self.state, self.thinks) {
            (State::Reasoning, _) => &[CLOSE, CALL, OPEN],
            (State::NoCall, _) if self.tools.is_empty() => &[CALL_END],
            (State::NoCall, _) => &[CALL_END, CALL],
            (_, true) => &[CALL, CLOSE],
            (_, false) => &[CALL],
        };
        let Some((at, tag)) = first_tag(&self.waiting, tags) else {
            let held = if ending.is_some() { 0 } else { possible_tag(&self.waiting, tags) };
            let certain = self.take(self.waiting.len() - held);
            self.emit(certain, parts);
            return Progress::Waits;
        };
        let before = self.take(at);
        self.emit(before, parts);
        let in_thought = self.state == State::Reasoning;
        let tag = self.take(tag.len());
        match tag.as_str() {
            OPEN => {}
            CLOSE => self.state = State::Text,
            CALL if !self.tools.is_empty() => {
                self.waiting.insert_str(0, CALL);
                self.state = State::Name { in_thought };
            }
            tag => {
                self.state = State::NoCall;
                self.emit(tag.to_owned(), parts);
                if tag == CALL_END {
                    self.state = State::Text;
                }
            }
        }
        Progress::Made
    }

    /// Reads a name, `waiting` begins with the opening tag.
    fn name(
        &mut self,
        in_thought: bool,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        let after = self.waiting[CALL.len()..].trim_start();
        let is_of_name = |c: char| !c.is_whitespace() && !c.is_control() && c != '<' && c != '>';
        let length = after.find(|c: char| !is_of_name(c)).unwrap_or(after.len());
        let (name, rest) = after.split_at(length);
        let next = rest.trim_start();
        let is_tool = self.tools.schema(name).is_some();
        // Spaces may follow a name, and where it is a tool's, a line end says enough.
        let line_ended = rest[..rest.len() - next.len()].contains('\n');
        let ends = [GLM4.arg_key_open, CALL_END];
        let ended = ends.iter().any(|tag| next.starts_with(tag));
        if is_tool && (line_ended || ended) {
            let schema = self.tools.schema(name).expect("a tool").clone();
            let name = name.to_owned();
            let used = self.waiting.len() - rest.len();
            self.waiting.drain(..used);
            push(parts, Part::Call { name });
            self.call = Some(Call::new(schema));
            self.has_calls = true;
            self.state = State::Call;
            return Progress::Made;
        }
        if ended {
            // A call of nothing that is there.
            let raw = self.take(CALL.len());
            self.state = State::NoCall;
            self.emit(raw, parts);
            return Progress::Made;
        }
        let may_become = match (name.is_empty(), rest.is_empty()) {
            (true, true) => true,
            (false, true) => name.len() <= Tools::MAX_NAME,
            _ => next.is_empty() || ends.iter().any(|tag| tag.starts_with(next)),
        };
        if may_become && ending.is_none() {
            return Progress::Waits;
        }
        let raw = self.take(CALL.len());
        self.state = match in_thought && ending.is_none() && !ended {
            true => State::Reasoning,
            false => State::Text,
        };
        self.emit(raw, parts);
        Progress::Made
    }

    fn in_call(&mut self, ending: Option<Ending>, parts: &mut Vec<Part>) -> Progress {
        let Some(call) = &mut self.call else {
            self.state = State::Text;
            return Progress::Made;
        };
        let progress = call.step(&mut self.waiting, ending, parts);
        if call.has_ended() {
            let strays = self.call.take().map(Call::into_strays).unwrap_or_default();
            self.state = State::Text;
            self.emit(strays, parts);
            return Progress::Made;
        }
        progress
    }

    fn take(&mut self, length: usize) -> String {
        self.waiting.drain(..length).collect()
    }

    /// Hands out text of the state; an answer's white space waits for what follows it.
    fn emit(&mut self, text: String, parts: &mut Vec<Part>) {
        if self.state == State::Reasoning {
            return push(parts, Part::Reasoning(text));
        }
        if self.has_text || self.tools.is_empty() {
            return push(parts, Part::Text(text));
        }
        self.blank.push_str(&text);
        if !self.blank.trim_start().is_empty() {
            self.has_text = true;
            push(parts, Part::Text(std::mem::take(&mut self.blank)));
        }
    }
}

/// Adds a part, to the last one where they are of one kind.
pub(super) fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), &part) {
        (_, Part::Reasoning(text) | Part::Text(text) | Part::Arguments(text))
            if text.is_empty() => {}
        (Some(Part::Reasoning(last)), Part::Reasoning(text))
        | (Some(Part::Text(last)), Part::Text(text))
        | (Some(Part::Arguments(last)), Part::Arguments(text)) => last.push_str(text),
        _ => parts.push(part),
    }
}

pub(super) fn first_tag<'a>(text: &str, tags: &[&'a str]) -> Option<(usize, &'a str)> {
    tags.iter().filter_map(|tag| text.find(tag).map(|at| (at, *tag))).min()
}

/// Length of the longest end of `text` that may become a tag.
pub(super) fn possible_tag(text: &str, tags: &[&str]) -> usize {
    let begun = |tag: &&str| (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n]));
    tags.iter().filter_map(begun).max().unwrap_or(0)
}
