//! A chat's answers while they come, as chunks or as one object.

use std::sync::Arc;

use axum::response::sse::Event;
use glm_runtime::TokenLogprobs;
use serde_json::{Map, Value, json};

use super::Shape;
use crate::access::new_id;
use crate::app::App;
use crate::error::{ApiError, Dialect};
use crate::generate::{End, Step, Turn};
use crate::openai::{chat_logprobs, finish_reason, now, stop_reason};
use crate::parse::{Message, Part};
use crate::sse::{self, Source};
use crate::usage::Usage;

/// One of the answers while it comes.
#[derive(Debug, Default)]
struct Choice {
    message: Message,
    token_ids: Vec<u32>,
    logprobs: Vec<Value>,
    end: Option<End>,
    /// Names of the calls so far.
    call_ids: Vec<String>,
    /// Whether anything went out.
    begun: bool,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering {
    app: Arc<App>,
    turn: Turn,
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    prompt: Vec<u32>,
    prompt_logprobs: Value,
    choices: Vec<Choice>,
    usage: Usage,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Answers,
    /// What comes after the answers.
    Closes,
    Closed,
}

impl Answering {
    pub(super) fn new(
        app: Arc<App>,
        turn: Turn,
        model: String,
        shape: Shape,
        prompt: Vec<u32>,
        choices: usize,
    ) -> Self {
        Answering {
            app,
            turn,
            shape,
            id: new_id("chatcmpl-"),
            created: now(),
            model,
            prompt,
            prompt_logprobs: Value::Null,
            choices: (0..choices).map(|_| Choice::default()).collect(),
            usage: Usage::default(),
            stage: Stage::Answers,
        }
    }

    /// Takes a step in; an error ends all answers.
    fn take(&mut self, step: Step) -> Result<Option<(usize, Vec<Part>)>, ApiError> {
        Ok(Some(match step {
            Step::PromptLogprobs(logprobs) => {
                self.prompt_logprobs = self.of_prompt(&logprobs);
                return Ok(None);
            }
            Step::Token { choice, parts, id, logprobs, thought } => {
                self.usage.token(thought);
                let logprobs = logprobs.map(|logprobs| chat_logprobs(&self.app, &logprobs));
                let answer = &mut self.choices[choice];
                answer.logprobs.extend(logprobs);
                if self.shape.token_ids {
                    answer.token_ids.push(id);
                }
                (choice, parts)
            }
            Step::End { choice, parts, end } => {
                let is_first = self.choices.iter().all(|choice| choice.end.is_none());
                self.usage.end(&end, is_first);
                self.choices[choice].end = Some(end);
                (choice, parts)
            }
            Step::Failed(error) => return Err(error),
        }))
    }

    /// One entry a token, none for the first.
    fn of_prompt(&self, logprobs: &[TokenLogprobs]) -> Value {
        let entry = |logprobs: &TokenLogprobs| chat_logprobs(&self.app, logprobs);
        std::iter::once(Value::Null).chain(logprobs.iter().map(entry)).collect()
    }

    /// The answers as one object, once all have ended.
    pub(super) async fn whole(mut self) -> Result<Value, ApiError> {
        while let Some(step) = self.turn.next().await {
            if let Some((choice, parts)) = self.take(step)? {
                self.choices[choice].message.extend(parts);
            }
        }
        let choices: Vec<Value> = self
            .choices
            .iter()
            .enumerate()
            .map(|(index, choice)| self.choice(index, choice))
            .collect();
        let mut body = self.object("chat.completion");
        body.insert("choices".into(), choices.into());
        body.insert("usage".into(), self.usage.json());
        body.insert("timings".into(), self.usage.timings());
        if !self.prompt_logprobs.is_null() {
            body.insert("prompt_logprobs".into(), self.prompt_logprobs.clone());
        }
        if self.shape.token_ids {
            body.insert("prompt_token_ids".into(), self.prompt.clone().into());
        }
        Ok(body.into())
    }

    fn object(&self, kind: &str) -> Map<String, Value> {
        let fields = [
            ("id", Value::from(self.id.as_str())),
            ("object", kind.into()),
            ("created", self.created.into()),
            ("model", self.model.as_str().into()),
            ("system_fingerprint", Value::Null),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let Message { reasoning, text, calls } = &choice.message;
        let mut message = json!({
            "role": "assistant",
            "content": text_or_null(text),
            "refusal": null,
        });
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.as_str().into();
        }
        if !calls.is_empty() {
            let call = |call: &crate::parse::ToolCall| {
                json!({
                    "id": new_id("call_"),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                })
            };
            message["tool_calls"] = calls.iter().map(call).collect();
        }
        let mut object = json!({"index": index, "message": message});
        self.close(&mut object, choice);
        if self.shape.token_ids {
            object["token_ids"] = choice.token_ids.clone().into();
        }
        object
    }

    /// Adds what is known of an answer besides its message.
    fn close(&self, object: &mut Value, choice: &Choice) {
        object["logprobs"] = match self.shape.logprobs {
            Some(_) => json!({"content": choice.logprobs, "refusal": null}),
            None => Value::Null,
        };
        let has_calls = !choice.message.calls.is_empty();
        if let Some(end) = &choice.end {
            object["finish_reason"] = finish_reason(end, has_calls).into();
            object["stop_reason"] = stop_reason(&self.app, end);
        }
    }

    /// An event with one change of one answer.
    fn chunk(&mut self, index: usize, delta: &Value) -> Event {
        let mut object =
            json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
        let choice = &mut self.choices[index];
        if !choice.logprobs.is_empty() {
            let logprobs = std::mem::take(&mut choice.logprobs);
            object["logprobs"] = json!({"content": logprobs, "refusal": null});
        }
        if !choice.token_ids.is_empty() {
            object["token_ids"] = std::mem::take(&mut choice.token_ids).into();
        }
        self.event(vec![object])
    }

    fn event(&self, choices: Vec<Value>) -> Event {
        let mut body = self.object("chat.completion.chunk");
        body.insert("choices".into(), choices.into());
        if self.shape.continuous_usage {
            body.insert("usage".into(), self.usage.json());
        } else if self.shape.usage {
            body.insert("usage".into(), Value::Null);
        }
        sse::data(&body.into())
    }

    /// The events that a step makes.
    fn events(&mut self, index: usize, parts: Vec<Part>) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.choices[index].begun {
            self.choices[index].begun = true;
            let mut first = json!({"role": "assistant", "content": ""});
            if self.shape.token_ids {
                first["prompt_token_ids"] = self.prompt.clone().into();
            }
            events.push(self.chunk(index, &first));
        }
        let silent = parts.is_empty();
        for part in parts {
            let choice = &mut self.choices[index];
            let delta = match &part {
                Part::Reasoning(text) => json!({"reasoning_content": text}),
                Part::Text(text) => json!({"content": text}),
                Part::Call { name } => {
                    let id = new_id("call_");
                    choice.call_ids.push(id.clone());
                    json!({"tool_calls": [{
                        "index": choice.call_ids.len() - 1,
                        "id": id,
                        "type": "function",
                        "function": {"name": name, "arguments": ""},
                    }]})
                }
                Part::Arguments(text) => json!({"tool_calls": [{
                    "index": choice.call_ids.len() - 1,
                    "function": {"arguments": text},
                }]}),
                Part::CallEnd => continue,
            };
            events.push(self.chunk(index, &delta));
        }
        let choice = &self.choices[index];
        if silent && !(choice.logprobs.is_empty() && choice.token_ids.is_empty()) {
            events.push(self.chunk(index, &json!({})));
        }
        if let Some(end) = &self.choices[index].end {
            let has_calls = !self.choices[index].call_ids.is_empty();
            let object = json!({
                "index": index,
                "delta": {},
                "logprobs": null,
                "finish_reason": finish_reason(end, has_calls),
                "stop_reason": stop_reason(&self.app, end),
            });
            events.push(self.event(vec![object]));
        }
        events
    }

    /// What comes after the last answer.
    fn closing(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.shape.usage {
            let mut body = self.object("chat.completion.chunk");
            body.insert("choices".into(), json!([]));
            body.insert("usage".into(), self.usage.json());
            body.insert("timings".into(), self.usage.timings());
            events.push(sse::data(&body.into()));
        }
        events.push(Event::default().data("[DONE]"));
        events
    }
}

impl Source for Answering {
    async fn next(&mut self) -> Option<Vec<Event>> {
        match self.stage {
            Stage::Closed => return None,
            Stage::Closes => {
                self.stage = Stage::Closed;
                return Some(self.closing());
            }
            Stage::Answers => {}
        }
        let Some(step) = self.turn.next().await else {
            self.stage = Stage::Closes;
            return Some(Vec::new());
        };
        Some(match self.take(step) {
            Ok(None) => {
                // Of the prompt, before the first token.
                let mut body = self.object("chat.completion.chunk");
                body.insert("choices".into(), json!([]));
                body.insert("prompt_logprobs".into(), self.prompt_logprobs.take());
                vec![sse::data(&body.into())]
            }
            Ok(Some((index, parts))) => self.events(index, parts),
            Err(error) => {
                self.stage = Stage::Closed;
                vec![sse::data(&error.body(Dialect::OpenAi)), Event::default().data("[DONE]")]
            }
        })
    }
}

fn text_or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}
