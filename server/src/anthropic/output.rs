//! A message while it comes: blocks, and the events that tell of them.

use axum::response::sse::Event;
use glm_runtime::Finish;
use serde_json::{Value, json};

use crate::access::new_id;
use crate::error::{ApiError, Dialect};
use crate::generate::{End, Step, Turn};
use crate::parse::{Message, Part};
use crate::sse::{self, Source};
use crate::usage::Usage;

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering {
    turn: Turn,
    id: String,
    model: String,
    prompt_tokens: usize,
    usage: Usage,
    blocks: usize,
    open: Option<Kind>,
    has_calls: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins,
    Answers,
    Closed,
}

impl Answering {
    pub(super) fn new(turn: Turn, model: String, prompt_tokens: usize) -> Self {
        Answering {
            turn,
            id: new_id("msg_"),
            model,
            prompt_tokens,
            usage: Usage::default(),
            blocks: 0,
            open: None,
            has_calls: false,
            stage: Stage::Begins,
        }
    }

    /// The message, once it has ended.
    pub(super) async fn whole(mut self) -> Result<Value, ApiError> {
        // Thought, text and calls stay in the order in which they came.
        let mut content: Vec<(Kind, Message)> = Vec::new();
        let mut end = None;
        while let Some(step) = self.turn.next().await {
            let (parts, its_end) = self.take(step)?;
            for part in parts {
                let kind = kind_of(&part);
                let begins = match &part {
                    Part::Call { .. } => true,
                    _ => content.last().is_none_or(|(last, _)| *last != kind),
                };
                if begins {
                    content.push((kind, Message::default()));
                }
                if let Some((_, message)) = content.last_mut() {
                    message.add(part);
                }
            }
            end = its_end.or(end);
        }
        let end = end.ok_or_else(|| ApiError::internal("the answer did not end"))?;
        let block = |(kind, message): (Kind, Message)| match kind {
            Kind::Thinking => {
                json!({"type": "thinking", "thinking": message.reasoning, "signature": ""})
            }
            Kind::Text => json!({"type": "text", "text": message.text, "citations": null}),
            Kind::Call => {
                let call = message.calls.into_iter().next();
                let (name, arguments) =
                    call.map(|call| (call.name, call.arguments)).unwrap_or_default();
                // What was cut short is no JSON; the stop reason says so.
                let input: Value = serde_json::from_str(&arguments).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": input})
            }
        };
        let has_calls = content.iter().any(|(kind, _)| *kind == Kind::Call);
        let content: Vec<Value> = content.into_iter().map(block).collect();
        let (reason, sequence) = stop(&end, has_calls);
        let mut message = self.message(&content);
        message["stop_reason"] = reason.into();
        message["stop_sequence"] = sequence;
        message["usage"] = self.usage.of_message();
        Ok(message)
    }

    fn message(&self, content: &[Value]) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 0},
        })
    }

    fn take(&mut self, step: Step) -> Result<(Vec<Part>, Option<End>), ApiError> {
        match step {
            Step::PromptLogprobs(_) => Ok((Vec::new(), None)),
            Step::Token { parts, thought, .. } => {
                self.usage.token(thought);
                Ok((parts, None))
            }
            Step::End { parts, end, .. } => {
                self.usage.end(&end, true);
                Ok((parts, Some(end)))
            }
            Step::Failed(error) => Err(error),
        }
    }

    fn events(&mut self, part: Part, events: &mut Vec<Event>) {
        let kind = kind_of(&part);
        if part == Part::CallEnd {
            return self.end_block(events);
        }
        let begins = matches!(part, Part::Call { .. }) || self.open != Some(kind);
        if begins {
            self.end_block(events);
            let block = match &part {
                Part::Reasoning(_) => json!({"type": "thinking", "thinking": "", "signature": ""}),
                Part::Call { name } => {
                    self.has_calls = true;
                    json!({"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": {}})
                }
                _ => json!({"type": "text", "text": ""}),
            };
            self.open = Some(kind);
            let start = json!({"index": self.blocks, "content_block": block});
            events.push(event("content_block_start", start));
        }
        let delta = match part {
            Part::Reasoning(text) => json!({"type": "thinking_delta", "thinking": text}),
            Part::Text(text) => json!({"type": "text_delta", "text": text}),
            Part::Arguments(text) => json!({"type": "input_json_delta", "partial_json": text}),
            Part::Call { .. } | Part::CallEnd => return,
        };
        events.push(event("content_block_delta", json!({"index": self.blocks, "delta": delta})));
    }

    fn end_block(&mut self, events: &mut Vec<Event>) {
        let Some(kind) = self.open.take() else { return };
        if kind == Kind::Thinking {
            // Clients wait for it before they take a thought for complete.
            let delta = json!({"type": "signature_delta", "signature": ""});
            let delta = json!({"index": self.blocks, "delta": delta});
            events.push(event("content_block_delta", delta));
        }
        events.push(event("content_block_stop", json!({"index": self.blocks})));
        self.blocks += 1;
    }
}

fn kind_of(part: &Part) -> Kind {
    match part {
        Part::Reasoning(_) => Kind::Thinking,
        Part::Text(_) => Kind::Text,
        Part::Call { .. } | Part::Arguments(_) | Part::CallEnd => Kind::Call,
    }
}

/// Anthropic's word for the end, and the text that was it.
fn stop(end: &End, has_calls: bool) -> (&'static str, Value) {
    match (end.finish, &end.stop_text) {
        (Finish::Stop, Some(text)) => ("stop_sequence", text.as_str().into()),
        (Finish::Stop, None) if has_calls => ("tool_use", Value::Null),
        (Finish::Stop, None) => ("end_turn", Value::Null),
        _ => ("max_tokens", Value::Null),
    }
}

fn event(name: &'static str, mut value: Value) -> Event {
    value["type"] = name.into();
    sse::named(name, &value)
}

impl Source for Answering {
    async fn next(&mut self) -> Option<Vec<Event>> {
        match self.stage {
            Stage::Closed => return None,
            Stage::Begins => {
                self.stage = Stage::Answers;
                let message = self.message(&[]);
                let start = event("message_start", json!({"message": message}));
                return Some(vec![start, event("ping", json!({}))]);
            }
            Stage::Answers => {}
        }
        let mut events = Vec::new();
        let taken = match self.turn.next().await {
            Some(step) => self.take(step),
            None => Err(ApiError::internal("the answer did not end")),
        };
        match taken {
            Ok((parts, end)) => {
                for part in parts {
                    self.events(part, &mut events);
                }
                if let Some(end) = end {
                    self.stage = Stage::Closed;
                    self.end_block(&mut events);
                    let (reason, sequence) = stop(&end, self.has_calls);
                    let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
                    let usage = self.usage.of_message();
                    events.push(event("message_delta", json!({"delta": delta, "usage": usage})));
                    events.push(event("message_stop", json!({})));
                }
            }
            Err(error) => {
                self.stage = Stage::Closed;
                events.push(sse::named("error", &error.body(Dialect::Anthropic)));
            }
        }
        Some(events)
    }
}
