//! One call, from the end of its name on.

use glm_models::chat::GLM4;
use serde_json::Value;

use super::Part;
use super::parser::{CALL, CALL_END, Ending, Progress, first_tag, possible_tag, push};
use super::repair::{Meaning, meaning};
use super::schema::{self, Allowed, Kinds};
use super::value;

const KEY: &str = GLM4.arg_key_open;
const KEY_END: &str = GLM4.arg_key_close;
const VALUE: &str = GLM4.arg_value_open;
const VALUE_END: &str = GLM4.arg_value_close;

/// A call whose name is known. Arguments that are texts go out while they come, others when they are
/// whole, and those whose type depends on later ones at the end.
#[derive(Debug)]
pub(super) struct Call {
    /// Of the arguments.
    schema: Value,
    state: State,
    /// Names and texts of the arguments so far.
    arguments: Vec<(String, String)>,
    /// How many of them went out.
    sent: usize,
    /// Whether the type of an argument hangs on those to come: nothing goes out any more.
    defers: bool,
    /// What stood between the arguments and is none.
    strays: String,
    ended: bool,
}

#[derive(Debug)]
enum State {
    /// Before the name of an argument, or the end.
    Between,
    Key,
    /// Between name and value.
    AfterKey(String),
    Value(Growing),
}

/// An argument whose end has not come.
#[derive(Debug)]
struct Growing {
    name: String,
    raw: String,
    allowed: Allowed,
    /// Bytes of `raw` that went out, once some did.
    sent: Option<usize>,
}

impl Call {
    pub(super) fn new(schema: Value) -> Self {
        Call {
            schema,
            state: State::Between,
            arguments: Vec::new(),
            sent: 0,
            defers: false,
            strays: String::new(),
            ended: false,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What was found in the call and belongs to no argument.
    pub(super) fn into_strays(self) -> String {
        self.strays
    }

    /// Looks at the waiting text once.
    pub(super) fn step(
        &mut self,
        waiting: &mut String,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Between => self.between(waiting, ending, parts),
            State::Key => self.key(waiting, ending, parts),
            State::AfterKey(name) => self.after_key(name, waiting, ending, parts),
            State::Value(growing) => self.value(growing, waiting, ending, parts),
        }
    }

    fn between(
        &mut self,
        waiting: &mut String,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        const TAGS: [&str; 6] = [KEY, CALL_END, KEY_END, VALUE, VALUE_END, CALL];
        let Some((at, tag)) = first_tag(waiting, &TAGS) else {
            let Some(ending) = ending else { return Progress::Waits };
            let rest = std::mem::take(waiting);
            if !TAGS.iter().any(|tag| tag.starts_with(rest.trim())) {
                self.stray(&rest);
            }
            match ending {
                Ending::Complete => self.end(parts),
                Ending::Cut => self.ended = true,
            }
            return Progress::Made;
        };
        let before: String = waiting.drain(..at).collect();
        let named = !before.trim().is_empty();
        if tag == CALL {
            // The end was forgotten; the next one begins.
            self.stray(&before);
            self.end(parts);
            return Progress::Made;
        }
        waiting.drain(..tag.len());
        match tag {
            CALL_END => {
                self.stray(&before);
                self.end(parts);
            }
            KEY => {
                self.stray(&before);
                self.state = State::Key;
            }
            // The opening tag of a name was forgotten.
            KEY_END if named => self.state = State::AfterKey(before.trim().to_owned()),
            VALUE if named => self.state = self.grow(before.trim()),
            tag => {
                self.stray(&before);
                self.stray(tag);
            }
        }
        Progress::Made
    }

    fn key(
        &mut self,
        waiting: &mut String,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        let Some((at, tag)) = first_tag(waiting, &[KEY_END, VALUE, CALL_END, KEY]) else {
            return match ending {
                None => {
                    self.state = State::Key;
                    Progress::Waits
                }
                Some(Ending::Complete) => {
                    self.strays.push_str(KEY);
                    self.between(waiting, ending, parts)
                }
                Some(Ending::Cut) => {
                    let name = value::escaped(std::mem::take(waiting).trim());
                    self.cut(&format!("\"{name}"), parts);
                    Progress::Made
                }
            };
        };
        let name = waiting[..at].trim().to_owned();
        match tag {
            KEY_END => {
                self.state = State::AfterKey(name);
                waiting.drain(..at + tag.len());
            }
            VALUE => {
                self.state = self.grow(&name);
                waiting.drain(..at + tag.len());
            }
            // No value comes.
            _ => {
                self.strays.push_str(KEY);
                self.strays.extend(waiting.drain(..at));
                self.state = State::Between;
            }
        }
        Progress::Made
    }

    fn after_key(
        &mut self,
        name: String,
        waiting: &mut String,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        let rest = waiting.trim_start();
        if let Some(value) = rest.strip_prefix(VALUE) {
            waiting.drain(..waiting.len() - value.len());
            self.state = self.grow(&name);
            return Progress::Made;
        }
        if rest.is_empty() && ending == Some(Ending::Cut) {
            self.cut(&value::text(&name), parts);
            return Progress::Made;
        }
        let tags = [KEY, CALL_END, CALL];
        if tags.iter().any(|tag| rest.starts_with(tag)) || (rest.is_empty() && ending.is_some()) {
            // No value comes.
            self.strays.push_str(&format!("{KEY}{name}{KEY_END}"));
            return self.between(waiting, ending, parts);
        }
        let may_become = [VALUE, KEY, CALL_END, CALL].iter().any(|tag| tag.starts_with(rest));
        if may_become && ending.is_none() {
            self.state = State::AfterKey(name);
            return Progress::Waits;
        }
        // The opening tag of the value was forgotten.
        self.state = self.grow(&name);
        Progress::Made
    }

    fn grow(&mut self, name: &str) -> State {
        self.defers |= schema::depends_on_others(&self.schema, name);
        State::Value(Growing {
            name: name.to_owned(),
            raw: String::new(),
            allowed: schema::argument(&self.schema, name, &self.arguments),
            sent: None,
        })
    }

    fn value(
        &mut self,
        mut growing: Growing,
        waiting: &mut String,
        ending: Option<Ending>,
        parts: &mut Vec<Part>,
    ) -> Progress {
        const TAGS: [&str; 4] = [VALUE_END, KEY, KEY_END, CALL_END];
        let mut from = 0;
        let (length, next, progress) = loop {
            let Some((at, tag)) = first_tag(&waiting[from..], &TAGS) else {
                let held = possible_tag(&waiting[from..], &TAGS);
                let held = if ending.is_some() { 0 } else { held };
                break (waiting.len() - held, None, Progress::Waits);
            };
            let at = from + at;
            let meaning = match tag {
                VALUE_END => Meaning::End(tag.len()),
                tag => meaning(tag, &waiting[at + tag.len()..], ending.is_some()),
            };
            match meaning {
                Meaning::Letter => from = at + tag.len(),
                Meaning::End(used) => break (at, Some(used), Progress::Made),
                Meaning::Unknown => break (at, None, Progress::Waits),
            }
        };
        growing.raw.extend(waiting.drain(..length));
        if let Some(used) = next {
            if used == 0 && growing.raw.ends_with('\n') {
                // It belongs to the tag that was forgotten.
                growing.raw.pop();
            }
            waiting.drain(..used);
            self.complete(growing, parts);
            return Progress::Made;
        }
        self.stream(&mut growing, parts);
        match ending {
            None => {
                self.state = State::Value(growing);
                progress
            }
            Some(Ending::Complete) => {
                self.complete(growing, parts);
                self.end(parts);
                Progress::Made
            }
            Some(Ending::Cut) => {
                match growing.sent {
                    Some(_) => self.ended = true,
                    // What kind of value it is, nobody knows.
                    None => self.cut(&format!("{}: ", value::text(&growing.name)), parts),
                }
                Progress::Made
            }
        }
    }

    /// Ends in the middle of an argument.
    fn cut(&mut self, begun: &str, parts: &mut Vec<Part>) {
        if !self.defers {
            push(parts, Part::Arguments(format!("{}{begun}", self.separator())));
        }
        self.ended = true;
    }

    /// Hands out what came of a text.
    fn stream(&self, growing: &mut Growing, parts: &mut Vec<Part>) {
        let null = Kinds::STRING.or_null();
        let Allowed { kinds, values: None } = &growing.allowed else { return };
        if self.defers || (*kinds != Kinds::STRING && *kinds != null) {
            return;
        }
        let trimmed = growing.raw.trim();
        let may_be_null = *kinds == null && "null".starts_with(trimmed);
        let sent = match growing.sent {
            None if may_be_null || growing.raw.is_empty() => return,
            None => {
                let opening = format!("{}{}: \"", self.separator(), value::text(&growing.name));
                push(parts, Part::Arguments(opening));
                0
            }
            Some(sent) => sent,
        };
        // A line end may yet turn out to belong to a tag.
        let end = growing.raw.len() - usize::from(growing.raw.ends_with('\n'));
        if sent < end {
            push(parts, Part::Arguments(value::escaped(&growing.raw[sent..end])));
        }
        growing.sent = Some(sent.max(end));
    }

    fn separator(&self) -> &'static str {
        if self.sent == 0 { "{" } else { ", " }
    }

    /// Takes an argument whose value is whole.
    fn complete(&mut self, growing: Growing, parts: &mut Vec<Part>) {
        let Growing { name, raw, allowed, sent } = growing;
        if let Some(sent) = sent {
            push(parts, Part::Arguments(format!("{}\"", value::escaped(&raw[sent..]))));
            self.sent += 1;
        } else if !self.defers {
            self.send(&name, &raw, &allowed, parts);
        }
        self.arguments.push((name, raw));
    }

    fn send(&mut self, name: &str, raw: &str, allowed: &Allowed, parts: &mut Vec<Part>) {
        let (separator, name) = (self.separator(), value::text(name));
        let value = value::to_json(raw, allowed);
        push(parts, Part::Arguments(format!("{separator}{name}: {value}")));
        self.sent += 1;
    }

    fn end(&mut self, parts: &mut Vec<Part>) {
        let arguments = std::mem::take(&mut self.arguments);
        for (name, raw) in &arguments[self.sent.min(arguments.len())..] {
            let allowed = schema::argument(&self.schema, name, &arguments);
            self.send(name, raw, &allowed, parts);
        }
        let close = if self.sent == 0 { "{}" } else { "}" };
        push(parts, Part::Arguments(close.to_owned()));
        push(parts, Part::CallEnd);
        self.ended = true;
    }

    fn stray(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.strays.push_str(text);
        }
    }
}
