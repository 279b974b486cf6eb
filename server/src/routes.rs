//! Every route on one screen.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::app::App;
use crate::openai::{chat, completions, models, responses};
use crate::{access, anthropic, openapi, page, plain};

/// Paths and what they do.
pub(crate) fn table() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/v1/models", get(models::list)),
        ("/v1/models/{*name}", get(models::one)),
        ("/v1/chat/completions", post(chat::chat)),
        ("/v1/completions", post(completions::completions)),
        ("/v1/responses", post(responses::create)),
        ("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete)),
        ("/v1/responses/{id}/input_items", get(responses::input_items)),
        ("/v1/messages", post(anthropic::messages)),
        ("/v1/messages/count_tokens", post(anthropic::count_tokens)),
        ("/tokenize", post(plain::tokenize)),
        ("/detokenize", post(plain::detokenize)),
        ("/parse_function_call", post(plain::parse_function_call)),
        ("/separate_reasoning", post(plain::separate_reasoning)),
        ("/livez", get(plain::livez)),
        ("/readyz", get(plain::readyz)),
        ("/health", get(plain::health)),
        ("/metrics", get(plain::metrics)),
        ("/version", get(plain::version)),
        ("/openapi.json", get(openapi::document)),
        ("/", get(page::index)),
        ("/page/style.css", get(page::style)),
        ("/page/chat.js", get(page::script)),
        ("/page/parts.js", get(page::parts)),
    ]
}

/// The routes with what all of them share.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let routes = table().into_iter().fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods.fallback(plain::wrong_method))
    });
    let router = routes
        .fallback(plain::not_found)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), access::check))
        .with_state(app.clone());
    let origins = &app.config.cors_origins;
    if origins.is_empty() {
        return router;
    }
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok())
            .collect::<Vec<_>>()
            .into(),
    };
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(Any)
        .expose_headers([access::REQUEST_ID]);
    router.layer(cors)
}
