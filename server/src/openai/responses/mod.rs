//! `/v1/responses`: OpenAI's newer API, with items in the place of messages.

mod input;
mod output;
mod store;

pub(crate) use store::Stored;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::access::Client;
use crate::app::App;
use crate::body::Fields;
use crate::chat::{Conversation, ToolChoice, of_object};
use crate::error::ApiError;
use crate::{sampling, sse};
use output::Answering;

/// Answers a list of items.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    let model = app.check_model(fields.text("model")?)?;
    let streams = fields.flag("stream")?.unwrap_or(false);
    let mut echoed = echo(&mut fields, &model)?;
    let stores = fields.flag("store")?.unwrap_or(true);
    echoed["store"] = stores.into();

    let input = input::items(fields.take("input"))?;
    let mut history = match fields.text("previous_response_id")? {
        None => Vec::new(),
        Some(id) => {
            echoed["previous_response_id"] = id.as_str().into();
            let kept = app.responses.conversation(&id, &client);
            kept.ok_or_else(|| not_found("previous_response_id", &id))?
        }
    };
    history.extend(input.iter().cloned());
    let mut conversation = Conversation {
        messages: input::messages(&history, echoed["instructions"].as_str())?,
        tools: input::tools(fields.list("tools")?)?,
        tool_choice: ToolChoice::openai(fields.take("tool_choice"))?,
        parallel_calls: fields.flag("parallel_tool_calls")?.unwrap_or(true),
        ..Conversation::default()
    };
    if let Some(mut text) = fields.object("text")?
        && let Some(mut format) = text.object("format")?
    {
        conversation.format = of_object(&mut format)?;
    }
    if let Some(mut reasoning) = fields.object("reasoning")?
        && let Some(effort) = reasoning.text("effort")?
    {
        conversation.thinking.set_effort(&effort, "reasoning.effort")?;
    }
    conversation.thinking.take(&mut fields)?;
    if let Some(arguments) = fields.object("chat_template_kwargs")? {
        conversation.set_arguments(arguments.rest())?;
    }
    let mut request = sampling::request(&app, &client, &mut fields, Vec::new())?;
    request.n = 1;
    let length = sampling::max_tokens(&mut fields, &["max_output_tokens"], 1)?;
    request.max_tokens = length.or(request.max_tokens);
    let prompt = conversation.prompt(app.clone()).await?;
    let turn = prompt.begin(&app, &client, request).await?;
    let keeps = stores.then_some((client, history, input));
    let answering = Answering::new(app, turn, echoed, keeps);
    match streams {
        true => Ok(sse::response(answering)),
        false => answering.whole().await.map(|value| Json(value).into_response()),
    }
}

/// What a response repeats of its request.
fn echo(fields: &mut Fields, model: &str) -> Result<Value, ApiError> {
    if fields.flag("background")? == Some(true) {
        let why = "answers are not computed in the background: leave it out";
        return Err(ApiError::unsupported("background", why));
    }
    let instructions = fields.take("instructions").unwrap_or_default();
    let instructions = match instructions {
        Value::Null => Value::Null,
        other => crate::chat::text_of(other, "instructions")?.into(),
    };
    let asked = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    Ok(json!({
        "model": model,
        "instructions": instructions,
        "metadata": asked("metadata", json!({})),
        "max_output_tokens": asked("max_output_tokens", Value::Null),
        "parallel_tool_calls": asked("parallel_tool_calls", true.into()),
        "previous_response_id": null,
        "reasoning": asked("reasoning", json!({"effort": null, "summary": null})),
        "service_tier": "default",
        "temperature": asked("temperature", json!(1.0)),
        "text": asked("text", json!({"format": {"type": "text"}})),
        "tool_choice": asked("tool_choice", "auto".into()),
        "tools": asked("tools", json!([])),
        "top_p": asked("top_p", json!(1.0)),
        "truncation": asked("truncation", "disabled".into()),
        "user": asked("user", Value::Null),
    }))
}

/// A response that was kept.
pub(crate) async fn retrieve(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.responses.response(&id, &client).map(Json).ok_or_else(|| not_found("id", &id))
}

/// Forgets it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    match app.responses.forget(&id, &client) {
        true => Ok(Json(json!({"id": id, "object": "response", "deleted": true}))),
        false => Err(not_found("id", &id)),
    }
}

/// What it was asked.
pub(crate) async fn input_items(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let items = app.responses.input(&id, &client).ok_or_else(|| not_found("id", &id))?;
    let id = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned();
    let (first, last) = (id(items.first()), id(items.last()));
    Ok(Json(json!({
        "object": "list", "data": items, "first_id": first, "last_id": last, "has_more": false
    })))
}

fn not_found(place: &str, id: &str) -> ApiError {
    let id: String = id.chars().take(80).collect();
    let message = format!(
        "{place}: found {id:?}, wanted a response that is kept here: the oldest are forgotten first"
    );
    ApiError { param: Some(place.to_owned()), ..ApiError::new(StatusCode::NOT_FOUND, message) }
}
