//! `/v1/completions`: prompts without a template, and how probable their tokens are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream::{SelectAll, StreamExt as _};
use futures_util::{Stream, stream};
use glm_runtime::{Event, TokenLogprobs};
use serde_json::{Map, Value, json};

use super::{chat_logprobs, finish_reason, finite, now, stop_reason, token_text};
use crate::access::{Client, new_id};
use crate::app::{App, Thought};
use crate::body::{Fields, found};
use crate::error::{ApiError, Dialect};
use crate::generate::End;
use crate::sse::{self, Source};
use crate::usage::Usage;
use crate::{chat, limits, sampling};

/// Continues prompts.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    let model = app.check_model(fields.text("model")?)?;
    if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        let why = "these models do not fill in the middle: send the prompt alone";
        return Err(ApiError::unsupported("suffix", why));
    }
    let prompts = prompts(&app, fields.take("prompt")).await?;
    let shape = Shape::take(&mut fields)?;
    let completing = Completing::begin(app, &client, fields, prompts, shape, model).await?;
    match shape.streams {
        true => Ok(sse::response(completing)),
        false => completing.whole().await.map(|value| Json(value).into_response()),
    }
}

/// A text, a list of texts, a list of token ids, or a list of such lists.
async fn prompts(app: &Arc<App>, value: Option<Value>) -> Result<Vec<Vec<u32>>, ApiError> {
    let wanted = "a text, token ids, or a list of either";
    let value = value.ok_or_else(|| ApiError::field("prompt", "nothing", wanted))?;
    let app = app.clone();
    let read = move || {
        let model = app.model()?;
        let list = match value {
            Value::Array(items) if items.first().is_some_and(Value::is_number) => {
                return Ok(vec![sampling::token_ids(&items, "prompt")?]);
            }
            Value::Array(items) => items,
            value => vec![value],
        };
        if list.is_empty() || list.len() > limits::PROMPTS {
            let wanted = format!("1 to {} prompts", limits::PROMPTS);
            return Err(ApiError::field("prompt", list.len(), &wanted));
        }
        let single = list.len() == 1;
        let prompt = |(index, value): (usize, Value)| {
            let place = if single { "prompt".into() } else { format!("prompt[{index}]") };
            match value {
                Value::String(text) => model.encode(&text),
                Value::Array(ids) => sampling::token_ids(&ids, &place),
                other => Err(ApiError::field(&place, found(&other), wanted)),
            }
        };
        list.into_iter().enumerate().map(prompt).collect()
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| ApiError::internal("the prompt could not be split into tokens"))?
}

/// What the answer is to contain.
#[derive(Debug, Clone, Copy)]
struct Shape {
    streams: bool,
    usage: bool,
    /// Begin with the prompt.
    echo: bool,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    token_ids: bool,
    /// Nothing is asked for but the prompt's probabilities.
    scores_only: bool,
}

impl Shape {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let usage = match fields.object("stream_options")? {
            Some(mut options) => options.flag("include_usage")?.unwrap_or(false),
            None => false,
        };
        let logprobs = match fields.get("logprobs") {
            // Some clients write what chats take.
            Some(Value::Bool(asked)) => {
                let asked = asked.then_some(0);
                fields.take("logprobs");
                asked
            }
            _ => fields.count("logprobs", 0..=limits::TOP_LOGPROBS)?,
        };
        Ok(Shape {
            streams: fields.flag("stream")?.unwrap_or(false),
            usage,
            echo: fields.flag("echo")?.unwrap_or(false),
            logprobs,
            prompt_logprobs: fields.count("prompt_logprobs", 0..=limits::TOP_LOGPROBS)?,
            token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            scores_only: false,
        })
    }
}

/// What came of a choice so far and has not gone out.
#[derive(Debug, Default)]
struct Choice {
    text: String,
    token_ids: Vec<u32>,
    tokens: Vec<(u32, Option<TokenLogprobs>)>,
    /// Characters of the text before `tokens`.
    offset: usize,
    end: Option<End>,
    begun: bool,
}

type Events = std::pin::Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>;

/// A request that is being answered. Choice `j` of prompt `i` of `n` choices each has index
/// `i * n + j`.
struct Completing {
    app: Arc<App>,
    events: SelectAll<Events>,
    shape: Shape,
    prompts: Vec<Vec<u32>>,
    /// Of the tokens of each prompt from the second on.
    prompt_logprobs: Vec<Vec<TokenLogprobs>>,
    n: usize,
    choices: Vec<Choice>,
    id: String,
    created: u64,
    model: String,
    usage: Usage,
    closes: bool,
    closed: bool,
}

impl Completing {
    async fn begin(
        app: Arc<App>,
        client: &Client,
        mut fields: Fields,
        prompts: Vec<Vec<u32>>,
        mut shape: Shape,
        model: String,
    ) -> Result<Self, ApiError> {
        /// Tokens where a request says nothing; OpenAI's.
        const TOKENS: usize = 16;
        let format = chat::answer_format(&mut fields)?;
        let mut request = sampling::request(&app, client, &mut fields, Vec::new())?;
        let best_of = fields.count("best_of", 1..=limits::CHOICES)?;
        if best_of.is_some_and(|best_of| best_of != request.n) {
            let why = format!("there is no choice among answers: leave it out, or {}", request.n);
            return Err(ApiError::unsupported("best_of", &why));
        }
        let most = sampling::max_tokens(&mut fields, &["max_tokens"], 0)?.unwrap_or(TOKENS);
        shape.scores_only = most == 0;
        if shape.scores_only && !shape.echo {
            return Err(ApiError::field("max_tokens", 0, "at least 1 without echo"));
        }
        // The engine computes at least one token; it is not reported then.
        request.max_tokens = Some(most.max(1));
        request.logprobs = shape.logprobs;
        let echoed = shape.logprobs.filter(|_| shape.echo);
        request.prompt_logprobs = echoed.max(shape.prompt_logprobs);
        if let Some(format) = format {
            request.mask = Some(app.mask(format, Thought::None).await?);
        }
        let n = request.n;
        let requests = prompts.iter().map(|prompt| {
            let mut request = request.clone();
            request.prompt.clone_from(prompt);
            request
        });
        let streams = app.submit(client, requests.collect())?.into_iter().enumerate();
        let tagged = |(index, events): (usize, crate::generate::Watched)| -> Events {
            Box::pin(events.map(move |event| (index, event)))
        };
        let events = stream::select_all(streams.map(tagged));
        Ok(Completing {
            app,
            events,
            shape,
            prompt_logprobs: vec![Vec::new(); prompts.len()],
            choices: (0..prompts.len() * n).map(|_| Choice::default()).collect(),
            prompts,
            n,
            id: new_id("cmpl-"),
            created: now(),
            model,
            usage: Usage::default(),
            closes: false,
            closed: false,
        })
    }

    /// Takes an event in; returns the choice that it changed.
    fn take(&mut self, prompt: usize, event: Event) -> Result<Option<usize>, ApiError> {
        let first = prompt * self.n;
        match event {
            Event::Prompt { .. } => Ok(None),
            Event::PromptLogprobs(logprobs) => {
                self.prompt_logprobs[prompt] = logprobs;
                Ok(None)
            }
            Event::Token { choice, id, text, logprobs } => {
                if !self.shape.scores_only {
                    self.usage.token(false);
                    let choice = &mut self.choices[first + choice];
                    choice.text.push_str(&text);
                    choice.token_ids.push(id);
                    choice.tokens.push((id, logprobs));
                }
                Ok(Some(first + choice))
            }
            Event::Finished { choice, text, finish, stop_token, stop_text, timings } => {
                let end = End { finish, stop_token, stop_text, timings };
                let ended = |choice: &Choice| choice.end.is_some();
                let is_first = !self.choices[first..first + self.n].iter().any(ended);
                self.usage.end(&end, is_first);
                let index = first + choice;
                let choice = &mut self.choices[index];
                if !self.shape.scores_only {
                    choice.text.push_str(&text);
                }
                choice.end = Some(end);
                Ok(Some(index))
            }
            Event::Failed(failure) => Err(failure.into()),
        }
    }

    async fn whole(mut self) -> Result<Value, ApiError> {
        while let Some((prompt, event)) = self.events.next().await {
            self.take(prompt, event)?;
        }
        let choices: Vec<Value> = (0..self.choices.len()).map(|index| self.piece(index)).collect();
        let mut body = self.object();
        body.insert("choices".into(), choices.into());
        body.insert("usage".into(), self.usage.json());
        body.insert("timings".into(), self.usage.timings());
        Ok(body.into())
    }

    fn object(&self) -> Map<String, Value> {
        let fields = [
            ("id", Value::from(self.id.as_str())),
            ("object", "text_completion".into()),
            ("created", self.created.into()),
            ("model", self.model.as_str().into()),
            ("system_fingerprint", Value::Null),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What a choice has to say, and has not said yet.
    fn piece(&mut self, index: usize) -> Value {
        let prompt = index / self.n;
        let begins = !std::mem::replace(&mut self.choices[index].begun, true);
        let echoes = begins && self.shape.echo;
        let mut text = String::new();
        let mut tokens: Vec<(u32, Option<TokenLogprobs>)> = Vec::new();
        if echoes {
            let ids = &self.prompts[prompt];
            let tokenizer = self.app.engine().ok().map(|engine| &engine.files().tokenizer);
            text = tokenizer.and_then(|t| t.decode(ids, false).ok()).unwrap_or_default();
            let known = &self.prompt_logprobs[prompt];
            let entry = |(place, id): (usize, &u32)| {
                (*id, place.checked_sub(1).and_then(|place| known.get(place)).cloned())
            };
            tokens = ids.iter().enumerate().map(entry).collect();
        }
        let choice = &mut self.choices[index];
        text.push_str(&std::mem::take(&mut choice.text));
        tokens.append(&mut choice.tokens);
        let ids = std::mem::take(&mut choice.token_ids);
        let mut offset = choice.offset;
        let mut object = json!({"index": index, "text": text, "logprobs": null});
        if self.shape.logprobs.is_some() {
            object["logprobs"] = self.logprobs(&tokens, &mut offset);
            self.choices[index].offset = offset;
        }
        if self.shape.prompt_logprobs.is_some() && begins {
            let known = self.prompt_logprobs[prompt].iter();
            let entry = |logprobs: &TokenLogprobs| chat_logprobs(&self.app, logprobs);
            object["prompt_logprobs"] =
                std::iter::once(Value::Null).chain(known.map(entry)).collect();
        }
        if self.shape.token_ids {
            object["token_ids"] = ids.into();
            if begins {
                object["prompt_token_ids"] = self.prompts[prompt].clone().into();
            }
        }
        object["finish_reason"] = Value::Null;
        if let Some(end) = &self.choices[index].end {
            object["finish_reason"] = finish_reason(end, false).into();
            object["stop_reason"] = stop_reason(&self.app, end);
        }
        object
    }

    /// OpenAI's four lists.
    fn logprobs(&self, tokens: &[(u32, Option<TokenLogprobs>)], offset: &mut usize) -> Value {
        let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
        let (mut tops, mut offsets) = (Vec::new(), Vec::new());
        for (id, known) in tokens {
            let (text, _) = token_text(&self.app, *id);
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            logprobs.push(known.as_ref().map(|known| finite(known.logprob)));
            tops.push(known.as_ref().map(|known| {
                let all = known.top.iter().copied().chain([(known.id, known.logprob)]);
                let entry = |(id, logprob)| (token_text(&self.app, id).0, finite(logprob).into());
                all.map(entry).collect::<Map<String, Value>>()
            }));
        }
        json!({
            "tokens": texts,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        })
    }

    fn event(&mut self, index: usize) -> SseEvent {
        let piece = self.piece(index);
        let mut body = self.object();
        body.insert("choices".into(), json!([piece]));
        if self.shape.usage {
            body.insert("usage".into(), Value::Null);
        }
        sse::data(&body.into())
    }
}

impl Source for Completing {
    async fn next(&mut self) -> Option<Vec<SseEvent>> {
        if self.closed {
            return None;
        }
        if self.closes {
            self.closed = true;
            let mut events = Vec::new();
            if self.shape.usage {
                let mut body = self.object();
                body.insert("choices".into(), json!([]));
                body.insert("usage".into(), self.usage.json());
                events.push(sse::data(&body.into()));
            }
            events.push(SseEvent::default().data("[DONE]"));
            return Some(events);
        }
        let Some((prompt, event)) = self.events.next().await else {
            self.closes = true;
            return Some(Vec::new());
        };
        Some(match self.take(prompt, event) {
            Ok(None) => Vec::new(),
            Ok(Some(index)) => {
                let choice = &self.choices[index];
                let says = !choice.text.is_empty() || choice.end.is_some() || !choice.begun;
                let details = self.shape.logprobs.is_some() || self.shape.token_ids;
                match says || (details && !choice.tokens.is_empty()) {
                    true => vec![self.event(index)],
                    false => Vec::new(),
                }
            }
            Err(error) => {
                self.closed = true;
                vec![sse::data(&error.body(Dialect::OpenAi)), SseEvent::default().data("[DONE]")]
            }
        })
    }
}
