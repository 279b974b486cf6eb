//! What goes back to a client whose request cannot be answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use glm_runtime::text::TextError;
use glm_runtime::{Failure, RequestError};
use serde_json::{Value, json};

use crate::parse::ToolError;

/// A refusal, the same for all APIs until it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// What is wrong, what was found and what was wanted.
    pub(crate) message: String,
    /// Path of the field that is wrong, such as `messages[2].content`.
    pub(crate) param: Option<String>,
    /// Seconds after which it may work.
    pub(crate) retry_after: Option<u64>,
}

/// How errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// What clients of a path understand.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, retry_after: None }
    }

    /// A request that is wrong as a whole.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that holds something else than is wanted.
    pub(crate) fn field(place: &str, found: impl std::fmt::Display, wanted: &str) -> Self {
        let message = format!("{place}: found {found}, wanted {wanted}");
        Self { param: Some(place.to_owned()), ..Self::invalid(message) }
    }

    /// A field that asks for what there is not.
    pub(crate) fn unsupported(place: &str, why: &str) -> Self {
        Self { param: Some(place.to_owned()), ..Self::invalid(format!("{place}: {why}")) }
    }

    /// A fault of ours.
    pub(crate) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// No answer now; perhaps later.
    pub(crate) fn later(status: StatusCode, message: &str, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(status, message) }
    }

    /// OpenAI's name of the kind of error.
    pub(crate) fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body in a dialect.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.kind(),
                "param": self.param,
                "code": self.status.as_u16(),
            }}),
            Dialect::Anthropic => {
                json!({"type": "error", "error": {"type": self.kind(), "message": self.message}})
            }
        }
    }

    pub(crate) fn response(&self, dialect: Dialect) -> Response {
        let body = axum::Json(self.body(dialect));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer, Basic realm=\"glm\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response(Dialect::OpenAi)
    }
}

/// An error in Anthropic's form.
#[derive(Debug)]
pub(crate) struct AnthropicError(pub(crate) ApiError);

impl<E: Into<ApiError>> From<E> for AnthropicError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for AnthropicError {
    fn into_response(self) -> Response {
        self.0.response(Dialect::Anthropic)
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Stopped { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
            RequestError::Sampling { name, .. } | RequestError::Parameter { name, .. } => {
                // The engine's names are those of the flags.
                let name = name.replace('-', "_");
                Self { param: Some(name), ..Self::invalid(message) }
            }
            _ => Self::invalid(message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status = match failure {
            Failure::ShutDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, failure.to_string())
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        let message = error.to_string();
        match error {
            TextError::Input { place, .. } => Self { param: Some(place), ..Self::invalid(message) },
            _ => Self::invalid(message),
        }
    }
}

impl From<ToolError> for ApiError {
    fn from(error: ToolError) -> Self {
        let message = error.to_string();
        Self { param: Some(error.place), ..Self::invalid(message) }
    }
}
