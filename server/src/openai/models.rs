//! `/v1/models`: what is served here.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

/// All names of the model.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let models: Vec<Value> = app.config.names.iter().map(|name| model(&app, name)).collect();
    // Anthropic's clients read the last three.
    let (first, last) = (app.config.names.first(), app.config.names.last());
    Json(json!({
        "object": "list", "data": models, "first_id": first, "last_id": last, "has_more": false
    }))
}

/// One of them.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    match app.config.names.contains(&name) {
        true => Ok(Json(model(&app, &name))),
        false => {
            let message = format!("model {name:?} is not served here");
            Err(ApiError::new(StatusCode::NOT_FOUND, message))
        }
    }
}

fn model(app: &App, name: &str) -> Value {
    let limits = app.engine().ok().map(|engine| engine.limits());
    json!({
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created": app.created,
        "owned_by": "glm",
        "root": app.name(),
        "max_model_len": limits.map(|limits| limits.context_length),
    })
}
