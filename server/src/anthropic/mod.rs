//! Anthropic's Messages API.

mod input;
mod output;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::access::Client;
use crate::app::App;
use crate::body::Fields;
use crate::chat::Conversation;
use crate::error::{AnthropicError, ApiError};
use crate::{limits, sampling, sse};
use output::Answering;

/// Answers a conversation.
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AnthropicError> {
    let mut fields = Fields::read(&headers, body).await?;
    let model = app.check_model(fields.text("model")?)?;
    let streams = fields.flag("stream")?.unwrap_or(false);
    let conversation = conversation(&app, &mut fields)?;
    let length = sampling::max_tokens(&mut fields, &["max_tokens"], 1)?;
    let length = length.ok_or_else(|| {
        ApiError::field("max_tokens", "nothing", "a whole number: this API always takes it")
    })?;
    let stops = fields.texts("stop_sequences", limits::STOPS, limits::STOP_BYTES)?;
    let mut request = sampling::request(&app, &client, &mut fields, Vec::new())?;
    request.n = 1;
    request.max_tokens = Some(length);
    request.stop_strings.extend(stops);
    let prompt = conversation.prompt(app.clone()).await?;
    let prompt_tokens = prompt.ids.len();
    let turn = prompt.begin(&app, &client, request).await?;
    let answering = Answering::new(turn, model, prompt_tokens);
    Ok(match streams {
        true => sse::response(answering),
        false => Json(answering.whole().await?).into_response(),
    })
}

/// Tokens of a conversation as the model reads it.
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, AnthropicError> {
    let mut fields = Fields::read(&headers, body).await?;
    app.check_model(fields.text("model")?)?;
    let conversation = conversation(&app, &mut fields)?;
    let prompt = conversation.prompt(app.clone()).await?;
    Ok(Json(json!({"input_tokens": prompt.ids.len()})))
}

fn conversation(app: &App, fields: &mut Fields) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    let strips = app.config.strip_billing_line;
    if let Some(system) = input::system(fields.take("system"), strips)? {
        messages.push(json!({"role": "system", "content": system}));
    }
    let asked = fields.list("messages")?.unwrap_or_default();
    messages.extend(input::messages(asked)?);
    let (tool_choice, parallel_calls) = input::tool_choice(fields)?;
    let mut conversation = Conversation {
        messages: crate::chat::openai_messages(messages, "messages")?,
        tools: input::tools(fields.list("tools")?)?,
        tool_choice,
        parallel_calls,
        ..Conversation::default()
    };
    if let Some(mut output) = fields.object("output_config")? {
        if let Some(effort) = output.text("effort")? {
            conversation.thinking.set_effort(&effort, "output_config.effort")?;
        }
        if let Some(mut format) = output.object("format")? {
            conversation.format = crate::chat::of_object(&mut format)?;
        }
    }
    if let Some(mut format) = fields.object("output_format")? {
        conversation.format = crate::chat::of_object(&mut format)?;
    }
    // Where nothing is said, Anthropic's models do not think; these do.
    conversation.thinking.take(fields)?;
    if let Some(arguments) = fields.object("chat_template_kwargs")? {
        conversation.set_arguments(arguments.rest())?;
    }
    Ok(conversation)
}
