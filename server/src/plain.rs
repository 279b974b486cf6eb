//! Routes beside the big APIs: text and tokens, the parsers by themselves, health.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::body::{Fields, found};
use crate::error::ApiError;
use crate::openai::chat::conversation;
use crate::parse::{Ending, Message, Parser, Start, Tools};
use crate::{limits, sampling};

/// Token ids of a text, or of a conversation as the model reads it.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    app.check_model(fields.text("model")?)?;
    let wants_texts = fields.flag("return_token_strs")?.unwrap_or(false);
    let ids = match fields.get("messages") {
        Some(_) => conversation(&mut fields)?.prompt(app.clone()).await?.ids,
        None => {
            let text = fields.text("prompt")?.or(fields.text("text")?);
            let text = text.ok_or_else(|| {
                ApiError::field("prompt", "nothing", "a text, or messages in its place")
            })?;
            let app = app.clone();
            let encode = move || app.model()?.encode(&text);
            let encoded = tokio::task::spawn_blocking(encode).await;
            encoded.map_err(|_| ApiError::internal("the text could not be split into tokens"))??
        }
    };
    let engine = app.engine()?;
    let tokenizer = &engine.files().tokenizer;
    let mut answer = json!({
        "tokens": ids,
        "count": ids.len(),
        "max_model_len": engine.limits().context_length,
    });
    if wants_texts {
        answer["token_strs"] = ids.iter().map(|id| tokenizer.token(*id)).collect();
    }
    Ok(Json(answer))
}

/// Text of token ids, special tokens included.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    app.check_model(fields.text("model")?)?;
    let ids = fields.list("tokens")?;
    let ids = ids.ok_or_else(|| ApiError::field("tokens", "nothing", "a list of token ids"))?;
    let ids = sampling::token_ids(&ids, "tokens")?;
    let text = app.engine()?.files().tokenizer.decode(&ids, false)?;
    Ok(Json(json!({"prompt": text, "text": text})))
}

/// Takes a text of the model apart, as SGLang's route of this name does.
pub(crate) async fn parse_function_call(
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    let text = fields.needed_text("text")?;
    let parser = fields.text("tool_call_parser")?.unwrap_or_else(|| "glm".into());
    if !TOOL_PARSERS.contains(&parser.as_str()) {
        let wanted = "glm, glm45 or glm47";
        return Err(ApiError::field("tool_call_parser", format!("{parser:?}"), wanted));
    }
    let list = fields.list("tools")?.unwrap_or_default();
    if list.len() > limits::TOOLS {
        return Err(ApiError::field("tools", list.len(), &format!("at most {}", limits::TOOLS)));
    }
    let message = whole(Start::Answer, Tools::new(&list)?, &text);
    let place = |name: &str| {
        let is_it = |tool: &Value| {
            tool.pointer("/function/name").or(tool.get("name")) == Some(&name.into())
        };
        list.iter().position(is_it)
    };
    let calls: Vec<Value> = message
        .calls
        .iter()
        .map(|call| {
            json!({
                "tool_index": place(&call.name),
                "name": call.name,
                "parameters": call.arguments,
            })
        })
        .collect();
    Ok(Json(json!({"normal_text": message.text, "calls": calls})))
}

/// Names that peers give to the one parser.
pub(crate) const TOOL_PARSERS: [&str; 3] = ["glm", "glm45", "glm47"];

/// Tells thought from answer, as SGLang's route of this name does.
pub(crate) async fn separate_reasoning(
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&headers, body).await?;
    let text = fields.needed_text("text")?;
    let start = match fields.text("reasoning_parser")?.as_deref() {
        Some("glm45") => Start::Outside,
        Some("glm47") => Start::Inside,
        other => {
            let found = other.map_or("nothing".into(), |name| format!("{name:?}"));
            return Err(ApiError::field("reasoning_parser", found, "glm45 or glm47"));
        }
    };
    let message = whole(start, Tools::default(), &text);
    Ok(Json(json!({"text": message.text, "reasoning_text": message.reasoning})))
}

fn whole(start: Start, tools: Tools, text: &str) -> Message {
    let mut parser = Parser::new(start, tools);
    let mut message = Message::default();
    message.extend(parser.push(text));
    message.extend(parser.finish(Ending::Cut));
    message
}

/// The process runs.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// A model is loaded and has answered, and the server takes requests.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let (status, text) = match (app.is_ready(), app.is_draining()) {
        (true, _) => (StatusCode::OK, "ok\n"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "loading\n"),
    };
    (status, text).into_response()
}

/// The same, with what is going on.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let status = match app.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let stats = app.engine().ok().map(|engine| engine.stats());
    let body = json!({
        "status": match (app.is_ready(), app.is_draining()) {
            (true, _) => "ready",
            (false, true) => "stopping",
            (false, false) => "loading",
        },
        "model": app.name(),
        "running": stats.as_ref().map(|stats| stats.running),
        "waiting": stats.as_ref().map(|stats| stats.waiting),
        "open_answers": app.open_answers(),
        "pages": stats.as_ref().map(|stats| json!({
            "total": stats.pages.total,
            "free": stats.pages.free,
            "held": stats.pages.held,
            "cached": stats.pages.cached,
        })),
    });
    (status, Json(body)).into_response()
}

/// What a Prometheus server reads.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let engine = app.engine().ok();
    let text = app.metrics.text(engine, app.open_answers(), app.config.vllm_metrics);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The version of the program.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// What is at no other route.
pub(crate) async fn not_found(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let message = found(&format!("{method} {path}").into());
    let error = ApiError::new(
        StatusCode::NOT_FOUND,
        format!("no route {message}: /openapi.json lists all of them"),
    );
    error.response(crate::error::Dialect::of(uri.path()))
}

/// A route that wants another method.
pub(crate) async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{path} does not take {method}");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message);
    error.response(crate::error::Dialect::of(uri.path()))
}
