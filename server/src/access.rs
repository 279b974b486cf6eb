//! Who may ask: keys, names of this machine, names of requests.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::app::App;
use crate::error::{ApiError, Dialect};
use crate::limits;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Digests of the keys of clients.
#[derive(Clone, Default)]
pub(crate) struct Keys(Vec<[u8; 32]>);

/// Who asks, as far as it matters to the engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    /// Cached prefixes are shared among requests of one key only.
    pub(crate) salt: Vec<u8>,
    /// Name of the request.
    pub(crate) request_id: String,
    /// The span of the client's that it belongs to.
    pub(crate) parent: opentelemetry::Context,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Keys(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Which key was given, in a time that says nothing about the keys.
    fn find(&self, given: &str) -> Option<usize> {
        let given: [u8; 32] = Sha256::digest(given).into();
        let mut place = u64::MAX;
        for (index, key) in self.0.iter().enumerate() {
            let same: Choice = key.ct_eq(&given);
            place.conditional_assign(&(index as u64), same);
        }
        usize::try_from(place).ok().filter(|place| *place < self.0.len())
    }

    fn client(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.is_open() {
            return Ok(Client::default());
        }
        let refused = |message: &str| ApiError::new(StatusCode::UNAUTHORIZED, message);
        let given = given_key(headers).ok_or_else(|| {
            refused("no API key: send it as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"")
        })?;
        let index = self.find(&given).ok_or_else(|| refused("the API key is not one of ours"))?;
        let salt = if self.0.len() > 1 { index.to_le_bytes().to_vec() } else { Vec::new() };
        Ok(Client { salt, ..Client::default() })
    }
}

/// The key of a request: of OpenAI's clients, of Anthropic's, or the password that a browser asks for.
fn given_key(headers: &HeaderMap) -> Option<String> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok().map(str::to_owned);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(key.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(key.trim()).ok()?;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_owned())
}

/// Paths that need no key: what asks them has none, and they say nothing.
pub(crate) const PUBLIC: [&str; 2] = ["/livez", "/readyz"];

/// Lets in who may, and gives every request and answer its name.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = std::time::Instant::now();
    let allowed = check_host(&app, &request).and_then(|()| {
        if PUBLIC.contains(&path.as_str()) {
            return Ok(Client::default());
        }
        app.keys.client(request.headers())
    });
    let mut response = match allowed {
        Ok(client) => {
            let request_id = id.to_str().unwrap_or_default().to_owned();
            let parent = crate::traces::parent(request.headers());
            request.extensions_mut().insert(Client { request_id, parent, ..client });
            next.run(request).await
        }
        Err(error) => error.response(dialect),
    };
    let (status, milliseconds) = (response.status().as_u16(), started.elapsed().as_millis() as u64);
    let id_text = id.to_str().unwrap_or_default();
    if PUBLIC.contains(&path.as_str()) || path == "/metrics" || path == "/health" {
        tracing::debug!(request_id = id_text, %method, path, status, milliseconds, "request");
    } else {
        tracing::info!(request_id = id_text, %method, path, status, milliseconds, "request");
    }
    app.metrics.answered(status);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// On a server for this machine alone, pages of other sites reach it under their own names: such
/// requests are refused (DNS rebinding).
fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    if !app.config.address.ip().is_loopback() {
        return Ok(());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let ours = name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || app.config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    match ours {
        true => Ok(()),
        false => {
            let message = format!(
                "host: found {name:?}, wanted a name of this machine: add others with --allowed-host"
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, message))
        }
    }
}

/// The name that the client gave, where it is a harmless one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=limits::REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(REQUEST_ID).filter(harmless).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&new_id("req_")).unwrap_or(HeaderValue::from_static("req"))
    })
}

/// A name that nothing else has.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_key_is_found_in_every_form_and_no_other() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        for (name, value, found) in [
            ("authorization", "Bearer one", true),
            ("authorization", "bearer  two", true),
            ("authorization", "Basic OnR3bw==", true),
            ("authorization", "Basic dXNlcjp0d28=", true),
            ("x-api-key", "two", true),
            ("x-api-key", "", false),
            ("authorization", "Bearer on", false),
            ("authorization", "one", false),
            ("authorization", "Basic !", false),
            ("host", "one", false),
        ] {
            assert_eq!(keys.client(&headers(name, value)).is_ok(), found, "{name}: {value}");
        }
        let salt = |key: &str| keys.client(&headers("x-api-key", key)).unwrap().salt;
        assert_ne!(salt("one"), salt("two"));
        assert!(Keys::default().client(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn only_harmless_names_of_requests_come_back() {
        assert_eq!(request_id(&headers("x-request-id", "abc-1")), "abc-1");
        for odd in ["", "a b", &"x".repeat(129)] {
            let id = request_id(&headers("x-request-id", odd));
            assert!(id.to_str().unwrap().starts_with("req_"), "{odd}");
        }
    }
}
