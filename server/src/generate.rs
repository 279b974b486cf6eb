//! Answers of the engine on their way to a client: watched, taken apart, counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::{Stream, StreamExt as _};
use glm_runtime::{Event, EventStream, Finish, Timings, TokenLogprobs};

use crate::access::Client;
use crate::app::{App, Place};
use crate::error::ApiError;
use crate::parse::{Ending, Parser, Part, Start, Tools};

/// The events of a request. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: EventStream,
    app: Arc<App>,
    _place: Arc<Place>,
    client: Client,
    submitted: Instant,
    last_token: Option<Instant>,
}

impl Watched {
    pub(crate) fn new(
        stream: EventStream,
        app: Arc<App>,
        place: Arc<Place>,
        client: &Client,
    ) -> Self {
        let (client, submitted) = (client.clone(), Instant::now());
        Watched { stream, app, _place: place, client, submitted, last_token: None }
    }
}

impl Watched {
    fn trace(&self, now: Instant, ended: Result<(String, &Timings), String>) {
        if let Some(traces) = &self.app.traces {
            let Client { request_id, parent, .. } = &self.client;
            traces.answer(parent, self.app.name(), request_id, now - self.submitted, ended);
        }
    }
}

impl Stream for Watched {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = Pin::new(&mut self.stream).poll_next(context);
        if let Poll::Ready(Some(event)) = &event {
            let (now, metrics) = (Instant::now(), &self.app.metrics);
            match event {
                Event::Token { .. } => {
                    match self.last_token {
                        None => metrics.first_token(now - self.submitted),
                        Some(last) => metrics.next_token(now - last),
                    }
                    self.last_token = Some(now);
                }
                Event::Finished { finish, timings, .. } => {
                    metrics.finished(*finish, timings, now - self.submitted);
                    tracing::info!(
                        request_id = self.client.request_id,
                        %finish,
                        prompt_tokens = timings.prompt_tokens,
                        cached_tokens = timings.cached_tokens,
                        output_tokens = timings.decode_tokens + 1,
                        queue_seconds = timings.queue_seconds,
                        first_token_seconds = timings.time_to_first_token_seconds,
                        decode_seconds = timings.decode_seconds,
                        "answer"
                    );
                    self.trace(now, Ok((finish.to_string(), timings)));
                }
                Event::Failed(failure) => {
                    metrics.failed();
                    tracing::error!(request_id = self.client.request_id, %failure, "answer");
                    self.trace(now, Err(failure.to_string()));
                }
                Event::Prompt { .. } | Event::PromptLogprobs(_) => {}
            }
        }
        event
    }
}

/// Why and how an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) finish: Finish,
    pub(crate) stop_token: Option<u32>,
    pub(crate) stop_text: Option<String>,
    pub(crate) timings: Timings,
}

/// What happens in a turn of a conversation.
#[derive(Debug)]
pub(crate) enum Step {
    PromptLogprobs(Vec<TokenLogprobs>),
    /// A token of an answer, and the parts that became certain by it.
    Token {
        choice: usize,
        parts: Vec<Part>,
        id: u32,
        logprobs: Option<TokenLogprobs>,
        thought: bool,
    },
    /// An answer ended; the parts are what was held back.
    End {
        choice: usize,
        parts: Vec<Part>,
        end: End,
    },
    /// No answer goes on.
    Failed(ApiError),
}

/// A turn of the assistant: `n` answers to a conversation, taken apart while they come.
#[derive(Debug)]
pub(crate) struct Turn {
    events: Watched,
    parsers: Vec<Parser>,
}

impl Turn {
    pub(crate) fn new(events: Watched, choices: usize, start: Start, tools: &Tools) -> Self {
        let parsers = (0..choices).map(|_| Parser::new(start, tools.clone())).collect();
        Turn { events, parsers }
    }

    /// What happens next; `None` after the end of all answers.
    pub(crate) async fn next(&mut self) -> Option<Step> {
        loop {
            return Some(match self.events.next().await? {
                Event::Prompt { .. } => continue,
                Event::PromptLogprobs(logprobs) => Step::PromptLogprobs(logprobs),
                Event::Token { choice, id, text, logprobs } => {
                    let parser = &mut self.parsers[choice];
                    let thought = parser.is_in_thought();
                    Step::Token { choice, parts: parser.push(&text), id, logprobs, thought }
                }
                Event::Finished { choice, text, finish, stop_token, stop_text, timings } => {
                    let parser = &mut self.parsers[choice];
                    let mut parts = parser.push(&text);
                    let ending = match stop_token {
                        Some(_) => Ending::Complete,
                        None => Ending::Cut,
                    };
                    parts.extend(parser.finish(ending));
                    let end = End { finish, stop_token, stop_text, timings };
                    Step::End { choice, parts, end }
                }
                Event::Failed(failure) => Step::Failed(failure.into()),
            });
        }
    }
}
