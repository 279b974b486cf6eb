//! `/v1/chat/completions`.

mod answer;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use crate::access::Client;
use crate::app::App;
use crate::body::Fields;
use crate::chat::{Conversation, ToolChoice, answer_format, openai_messages, openai_tools};
use crate::error::ApiError;
use crate::{limits, sampling, sse};
use answer::Answering;

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    let model = app.check_model(fields.text("model")?)?;
    let shape = Shape::take(&mut fields)?;
    let conversation = conversation(&mut fields)?;
    let mut request = sampling::request(&app, &client, &mut fields, Vec::new())?;
    let length = sampling::max_tokens(&mut fields, &["max_tokens", "max_completion_tokens"], 1)?;
    request.max_tokens = length.or(request.max_tokens);
    request.logprobs = shape.logprobs;
    request.prompt_logprobs = shape.prompt_logprobs;
    let choices = request.n;
    let prompt = conversation.prompt(app.clone()).await?;
    let ids = if shape.token_ids { prompt.ids.clone() } else { Vec::new() };
    let turn = prompt.begin(&app, &client, request).await?;
    let answer = Answering::new(app, turn, model, shape, ids, choices);
    match shape.streams {
        true => Ok(sse::response(answer)),
        false => answer.whole().await.map(|value| Json(value).into_response()),
    }
}

/// A conversation, from the fields that have to do with it.
pub(crate) fn conversation(fields: &mut Fields) -> Result<Conversation, ApiError> {
    if fields.take("chat_template").is_some() {
        let why = "templates of requests are not run: the model's own is used";
        return Err(ApiError::unsupported("chat_template", why));
    }
    for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.take(old).is_some() {
            return Err(ApiError::unsupported(old, &format!("superseded by OpenAI: use {new}")));
        }
    }
    let messages = fields.list("messages")?.unwrap_or_default();
    let mut conversation = Conversation {
        messages: openai_messages(messages, "messages")?,
        tools: openai_tools(fields.list("tools")?)?,
        tool_choice: ToolChoice::openai(fields.take("tool_choice"))?,
        parallel_calls: fields.flag("parallel_tool_calls")?.unwrap_or(true),
        format: answer_format(fields)?,
        ..Conversation::default()
    };
    conversation.thinking.take(fields)?;
    if let Some(arguments) = fields.object("chat_template_kwargs")? {
        conversation.set_arguments(arguments.rest())?;
    }
    Ok(conversation)
}

/// What the answer is to contain.
#[derive(Debug, Clone, Copy)]
struct Shape {
    streams: bool,
    /// Report usage at the end of a stream.
    usage: bool,
    /// Report it with every event.
    continuous_usage: bool,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    token_ids: bool,
}

impl Shape {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let streams = fields.flag("stream")?.unwrap_or(false);
        let (mut usage, mut continuous_usage) = (false, false);
        if let Some(mut options) = fields.object("stream_options")? {
            usage = options.flag("include_usage")?.unwrap_or(false);
            continuous_usage = options.flag("continuous_usage_stats")?.unwrap_or(false);
        }
        let most = 0..=limits::TOP_LOGPROBS;
        let top = fields.count("top_logprobs", most.clone())?;
        let logprobs = match fields.flag("logprobs")? {
            Some(true) => Some(top.unwrap_or(0)),
            _ if top.is_some_and(|top| top > 0) => {
                return Err(ApiError::field("logprobs", "false", "true with top_logprobs"));
            }
            _ => None,
        };
        Ok(Shape {
            streams,
            usage,
            continuous_usage,
            logprobs,
            prompt_logprobs: fields.count("prompt_logprobs", most)?,
            token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
        })
    }
}
