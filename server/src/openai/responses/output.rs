//! A response while it comes: items, and the events that tell of them.

use std::sync::Arc;

use axum::response::sse::Event;
use glm_runtime::Finish;
use serde_json::{Value, json};

use crate::access::{Client, new_id};
use crate::app::App;
use crate::error::ApiError;
use crate::generate::{End, Step, Turn};
use crate::openai::now;
use crate::parse::Part;
use crate::sse::{self, Source};
use crate::usage::Usage;

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering {
    app: Arc<App>,
    turn: Turn,
    id: String,
    created: u64,
    echoed: Value,
    /// Whose response it is, all items before it, and those of the request.
    keeps: Option<(Client, Vec<Value>, Vec<Value>)>,
    output: Vec<Value>,
    open: Option<Open>,
    usage: Usage,
    sequence: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins,
    Answers,
    Closed,
}

/// The item that is not complete.
#[derive(Debug)]
struct Open {
    kind: Kind,
    id: String,
    call_id: String,
    name: String,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call,
}

impl Open {
    fn new(kind: Kind, name: String) -> Self {
        let prefix = match kind {
            Kind::Reasoning => "rs_",
            Kind::Message => "msg_",
            Kind::Call => "fc_",
        };
        let call_id = new_id("call_");
        Open { kind, id: new_id(prefix), call_id, name, text: String::new() }
    }

    fn part(&self, text: &str) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
            _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        }
    }

    fn item(&self, status: &str, parts: &[Value]) -> Value {
        match self.kind {
            Kind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "summary": [], "content": parts,
                "encrypted_content": null, "status": status,
            }),
            Kind::Message => json!({
                "id": self.id, "type": "message", "role": "assistant", "status": status,
                "content": parts,
            }),
            Kind::Call => json!({
                "id": self.id, "type": "function_call", "call_id": self.call_id,
                "name": self.name, "arguments": self.text, "status": status,
            }),
        }
    }
}

impl Answering {
    pub(super) fn new(
        app: Arc<App>,
        turn: Turn,
        echoed: Value,
        keeps: Option<(Client, Vec<Value>, Vec<Value>)>,
    ) -> Self {
        Answering {
            app,
            turn,
            id: new_id("resp_"),
            created: now(),
            echoed,
            keeps,
            output: Vec::new(),
            open: None,
            usage: Usage::default(),
            sequence: 0,
            stage: Stage::Begins,
        }
    }

    /// The response, once it has ended.
    pub(super) async fn whole(mut self) -> Result<Value, ApiError> {
        let mut unseen = Vec::new();
        while let Some(step) = self.turn.next().await {
            if let Some(end) = self.take(step, &mut unseen)? {
                return Ok(self.close(&end, &mut unseen));
            }
            unseen.clear();
        }
        Err(ApiError::internal("the answer did not end"))
    }

    /// Takes a step in, and tells what it means; the end, where it is one.
    fn take(
        &mut self,
        step: Step,
        events: &mut Vec<(&'static str, Value)>,
    ) -> Result<Option<End>, ApiError> {
        let (parts, end) = match step {
            Step::PromptLogprobs(_) => return Ok(None),
            Step::Token { parts, thought, .. } => {
                self.usage.token(thought);
                (parts, None)
            }
            Step::End { parts, end, .. } => (parts, Some(end)),
            Step::Failed(error) => return Err(error),
        };
        for part in parts {
            match part {
                Part::Reasoning(text) => self.add(Kind::Reasoning, &text, events),
                Part::Text(text) => self.add(Kind::Message, &text, events),
                Part::Call { name } => {
                    self.end_item("completed", events);
                    self.begin(Open::new(Kind::Call, name), events);
                }
                Part::Arguments(text) => self.add(Kind::Call, &text, events),
                Part::CallEnd => self.end_item("completed", events),
            }
        }
        Ok(end)
    }

    fn begin(&mut self, open: Open, events: &mut Vec<(&'static str, Value)>) {
        let place = self.output.len();
        let item = open.item("in_progress", &[]);
        events.push(("response.output_item.added", json!({"output_index": place, "item": item})));
        if open.kind != Kind::Call {
            let part = open.part("");
            events.push((
                "response.content_part.added",
                json!({"item_id": open.id, "output_index": place, "content_index": 0, "part": part}),
            ));
        }
        self.open = Some(open);
    }

    fn add(&mut self, kind: Kind, text: &str, events: &mut Vec<(&'static str, Value)>) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.end_item("completed", events);
            self.begin(Open::new(kind, String::new()), events);
        }
        let place = self.output.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut delta = json!({"item_id": open.id, "output_index": place, "delta": text});
        let name = match kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Message => "response.output_text.delta",
            Kind::Call => "response.function_call_arguments.delta",
        };
        if kind != Kind::Call {
            delta["content_index"] = 0.into();
        }
        if kind == Kind::Message {
            delta["logprobs"] = json!([]);
        }
        events.push((name, delta));
    }

    fn end_item(&mut self, status: &str, events: &mut Vec<(&'static str, Value)>) {
        let Some(open) = self.open.take() else { return };
        let place = self.output.len();
        let at = |mut value: Value| {
            value["item_id"] = open.id.as_str().into();
            value["output_index"] = place.into();
            value
        };
        let mut parts = Vec::new();
        match open.kind {
            Kind::Call => events.push((
                "response.function_call_arguments.done",
                at(json!({"name": open.name, "arguments": open.text})),
            )),
            kind => {
                let name = match kind {
                    Kind::Reasoning => "response.reasoning_text.done",
                    _ => "response.output_text.done",
                };
                let mut done = at(json!({"content_index": 0, "text": open.text}));
                if kind == Kind::Message {
                    done["logprobs"] = json!([]);
                }
                events.push((name, done));
                parts.push(open.part(&open.text));
                let done = at(json!({"content_index": 0, "part": parts[0]}));
                events.push(("response.content_part.done", done));
            }
        }
        let item = open.item(status, &parts);
        let done = json!({"output_index": place, "item": item});
        events.push(("response.output_item.done", done));
        self.output.push(item);
    }

    /// Ends the response and keeps it.
    fn close(&mut self, end: &End, events: &mut Vec<(&'static str, Value)>) -> Value {
        let (status, why) = match end.finish {
            Finish::Stop => ("completed", None),
            Finish::Deadline => ("incomplete", Some("deadline")),
            _ => ("incomplete", Some("max_output_tokens")),
        };
        self.end_item(status, events);
        self.usage.end(end, true);
        let mut response = self.response(status);
        if let Some(why) = why {
            response["incomplete_details"] = json!({"reason": why});
        }
        response["usage"] = self.usage.of_response();
        response["timings"] = self.usage.timings();
        if let Some((client, mut items, input)) = self.keeps.take() {
            items.extend(self.output.iter().cloned());
            self.app.responses.keep(&self.id, &client, response.clone(), items, input);
        }
        response
    }

    fn response(&self, status: &str) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "output": self.output,
            "usage": null,
        });
        if status == "completed" {
            response["completed_at"] = now().into();
        }
        if let (Value::Object(response), Value::Object(echoed)) = (&mut response, &self.echoed) {
            response.extend(echoed.clone());
        }
        response
    }

    fn event(&mut self, name: &'static str, mut value: Value) -> Event {
        value["type"] = name.into();
        value["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        sse::named(name, &value)
    }
}

impl Source for Answering {
    async fn next(&mut self) -> Option<Vec<Event>> {
        match self.stage {
            Stage::Closed => return None,
            Stage::Begins => {
                self.stage = Stage::Answers;
                let response = json!({"response": self.response("in_progress")});
                let created = self.event("response.created", response.clone());
                return Some(vec![created, self.event("response.in_progress", response)]);
            }
            Stage::Answers => {}
        }
        let mut told = Vec::new();
        let step = self.turn.next().await;
        let taken = match step {
            Some(step) => self.take(step, &mut told),
            None => Err(ApiError::internal("the answer did not end")),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(end)) => {
                self.stage = Stage::Closed;
                let response = self.close(&end, &mut told);
                let name = match response["status"].as_str() {
                    Some("completed") => "response.completed",
                    _ => "response.incomplete",
                };
                told.push((name, json!({"response": response})));
            }
            Err(error) => {
                self.stage = Stage::Closed;
                self.end_item("incomplete", &mut told);
                let mut response = self.response("failed");
                response["error"] = json!({"code": "server_error", "message": error.message});
                told.push(("response.failed", json!({"response": response})));
            }
        }
        Some(told.into_iter().map(|(name, value)| self.event(name, value)).collect())
    }
}
