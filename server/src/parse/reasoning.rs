//! Thought and answer, told apart by `<think>`, `</think>` and `<tool_call>`.

use glm_models::chat::GLM4;

use super::Part;

const OPEN: &str = GLM4.think_open;
const CLOSE: &str = GLM4.think_close;
const CALL: &str = GLM4.tool_call_open;
const CALL_END: &str = GLM4.tool_call_close;
/// Where a turn begins: tags of earlier turns say nothing about this one.
const ROLES: [&str; 4] = GLM4.roles;

/// Splits the model's text into [`Part`]s.
///
/// A thought is what follows an opening tag, which the prompt has written already
/// ([`Start::Inside`]) or which the model writes first (with white space before it at most). It
/// ends at `</think>` or at a tool call. Further `<think>` in a thought and `</think>` in an
/// answer are dropped, and all else, inside tool calls even these, is kept as it is.
///
/// The joined parts do not depend on how the text is cut into pushes: the beginning of what may
/// become a tag waits for the next push.
#[derive(Debug)]
pub struct ReasoningSplitter {
    state: State,
    waiting: String,
}

/// Where the model's text starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Before a thought or an answer.
    Outside,
    /// In a thought that the prompt has opened.
    Inside,
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
    Call,
}

impl State {
    /// The tags that mean something here.
    fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Beginning => &[],
            Self::Reasoning => &[CLOSE, CALL, OPEN],
            Self::Text => &[CALL, CLOSE],
            Self::Call => &[CALL_END],
        }
    }

    fn after(tag: &str) -> Self {
        match tag {
            OPEN => Self::Reasoning,
            CALL => Self::Call,
            _ => Self::Text,
        }
    }
}

impl ReasoningSplitter {
    /// A splitter for the text that follows a prompt; see [`Start::after`].
    pub fn new(start: Start) -> Self {
        let state = match start {
            Start::Outside => State::Beginning,
            Start::Inside => State::Reasoning,
        };
        Self { state, waiting: String::new() }
    }

    /// Adds text and returns the parts that became certain, none of them empty.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.waiting.push_str(text);
        let mut parts = Vec::new();
        if self.state == State::Beginning && !self.begin() {
            return parts;
        }
        while let Some((at, tag)) = first_tag(&self.waiting, self.state.tags()) {
            self.emit(at, &mut parts);
            self.state = State::after(tag);
            if tag == CALL || tag == CALL_END {
                self.emit(tag.len(), &mut parts);
            } else {
                self.waiting.drain(..tag.len());
            }
        }
        let certain = self.waiting.len() - possible_tag(&self.waiting, self.state.tags());
        self.emit(certain, &mut parts);
        parts
    }

    /// Ends the text and returns what was waiting.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        self.emit(self.waiting.len(), &mut parts);
        parts
    }

    /// Leaves the beginning once the text shows what it is; `false` while it does not.
    fn begin(&mut self) -> bool {
        let text = self.waiting.trim_start();
        if let Some(thought) = text.strip_prefix(OPEN) {
            self.waiting.drain(..self.waiting.len() - thought.len());
            self.state = State::Reasoning;
        } else if !OPEN.starts_with(text) {
            self.state = State::Text;
        }
        self.state != State::Beginning
    }

    /// Moves the first `length` waiting bytes into `parts`.
    fn emit(&mut self, length: usize, parts: &mut Vec<Part>) {
        if length == 0 {
            return;
        }
        let text: String = self.waiting.drain(..length).collect();
        match (self.state, parts.last_mut()) {
            (State::Reasoning, Some(Part::Reasoning(last))) => last.push_str(&text),
            (State::Reasoning, _) => parts.push(Part::Reasoning(text)),
            (_, Some(Part::Text(last))) => last.push_str(&text),
            (_, _) => parts.push(Part::Text(text)),
        }
    }
}

fn first_tag(text: &str, tags: &[&'static str]) -> Option<(usize, &'static str)> {
    tags.iter().filter_map(|tag| text.find(tag).map(|at| (at, *tag))).min()
}

/// Length of the longest end of `text` that may become a tag.
fn possible_tag(text: &str, tags: &[&str]) -> usize {
    let begun = |tag: &&str| (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n]));
    tags.iter().filter_map(begun).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thought and answer when `text` is pushed in the given pieces.
    fn split<'a>(start: Start, pieces: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let mut splitter = ReasoningSplitter::new(start);
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut parts: Vec<Part> = Vec::new();
        for piece in pieces {
            parts.extend(splitter.push(piece));
        }
        parts.extend(splitter.finish());
        for part in parts {
            match part {
                Part::Reasoning(piece) => reasoning.push_str(&piece),
                Part::Text(piece) => text.push_str(&piece),
            }
        }
        (reasoning, text)
    }

    /// Start, the model's text, its thought, its answer.
    const CASES: &[(Start, &str, &str, &str)] = &[
        (Start::Outside, "This is the rest", "", "This is the rest"),
        (
            Start::Outside,
            "<think>This is a reasoning\nsection</think>This is the rest\nThat",
            "This is a reasoning\nsection",
            "This is the rest\nThat",
        ),
        (Start::Outside, "<think></think>This is the rest", "", "This is the rest"),
        (Start::Outside, "<think></think>", "", ""),
        (Start::Outside, "<think>This is a reasoning section", "This is a reasoning section", ""),
        (Start::Inside, "I reason</think>Answer", "I reason", "Answer"),
        (
            Start::Outside,
            "<think>I need weather<tool_call>get_weather</tool_call>",
            "I need weather",
            "<tool_call>get_weather</tool_call>",
        ),
        (Start::Outside, "Answer", "", "Answer"),
        (Start::Inside, "a</think>b</think>c", "a", "bc"),
        (Start::Outside, "<think><think>a</think>b", "a", "b"),
        // White space belongs to the answer unless it precedes the opening tag.
        (Start::Outside, "\n<think>a\n</think>\nb\n", "a\n", "\nb\n"),
        (Start::Outside, " \n b", "", " \n b"),
        (Start::Outside, " \n", "", " \n"),
        (Start::Inside, "\n<think>a</think>b", "\na", "b"),
        (Start::Inside, "never closed", "never closed", ""),
        (Start::Outside, "", "", ""),
        // An opening tag later in the answer is text, and so is all that only looks like a tag.
        (Start::Outside, "the tag <think> opens", "", "the tag <think> opens"),
        (Start::Outside, "</think>b<</think", "", "b<</think"),
        (Start::Inside, "a < b <thin </thi", "a < b <thin </thi", ""),
        (Start::Inside, "é<</think>é", "é<", "é"),
        // A tool call is kept to the letter, and the text after it is an answer again.
        (
            Start::Inside,
            "a<tool_call>f</think><think></tool_call>b</think>c",
            "a",
            "<tool_call>f</think><think></tool_call>bc",
        ),
        (Start::Outside, "<tool_call>f</think>", "", "<tool_call>f</think>"),
        (Start::Inside, "a</think>b<tool_call>f</tool_call>", "a", "b<tool_call>f</tool_call>"),
    ];

    #[test]
    fn cases_whole_and_in_any_two_or_three_pieces() {
        for &(start, text, reasoning, answer) in CASES {
            let wanted = (reasoning.to_owned(), answer.to_owned());
            assert_eq!(split(start, [text]), wanted, "{text:?} whole");
            let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            for &first in &cuts {
                for &second in cuts.iter().filter(|&&second| second >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(split(start, pieces), wanted, "{pieces:?}");
                }
            }
        }
    }

    #[test]
    fn random_tags_split_the_same_in_single_characters() {
        let words = [OPEN, CLOSE, CALL, CALL_END, "a", "<", "</", "\n", "think>", "<tool_", "é"];
        let mut state = 7_u32;
        for _ in 0..3_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(words[(state >> 16) as usize % words.len()]);
            }
            let characters = || text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
            for start in [Start::Outside, Start::Inside] {
                assert_eq!(split(start, characters()), split(start, [text.as_str()]), "{text:?}");
            }
        }
    }

    #[test]
    fn certain_text_does_not_wait() {
        let mut splitter = ReasoningSplitter::new(Start::Inside);
        assert_eq!(splitter.push("so </th"), [Part::Reasoning("so ".into())]);
        assert_eq!(splitter.push("ese <"), [Part::Reasoning("</these ".into())]);
        assert_eq!(splitter.push("/think>12"), [Part::Text("12".into())]);
        assert_eq!(splitter.finish(), []);
    }

    #[test]
    fn the_prompt_decides_where_the_text_starts() {
        const TURN: &str = "[gMASK]<sop><|system|>\nYou help.<|user|>\nFrance?<|assistant|>";
        for (tail, wanted) in [
            ("<think>", Start::Inside),
            ("\n<think>\n", Start::Inside),
            ("", Start::Outside),
            ("</think>", Start::Outside),
            ("\n<think></think>", Start::Outside),
            ("\n<think>The user is asking for the capital of", Start::Inside),
            ("\n<think>The user asks.</think>\nParis.", Start::Outside),
            ("\n<think>x<tool_call>y", Start::Outside),
            ("<think></think>Paris.<|user|>Chile?<|assistant|>\n<think>The user", Start::Inside),
            ("<think>x<tool_call>y</tool_call><|observation|>z<|assistant|><think>", Start::Inside),
            ("<think>x<|user|>What does <think> do?<|assistant|>", Start::Outside),
        ] {
            assert_eq!(Start::after(&format!("{TURN}{tail}")), wanted, "{tail:?}");
        }
        assert_eq!(Start::after("What does <think> do?"), Start::Outside);
        assert_eq!(Start::after("Raw text <think> "), Start::Inside);
    }
}
