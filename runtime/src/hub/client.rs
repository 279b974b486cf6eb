use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, LOCATION, RANGE};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::{Hub, HubConfig, HubError};

const REDIRECTS: usize = 10;
/// A connection on which nothing arrives for so long is taken for broken.
const SILENCE: Duration = Duration::from_secs(60);

/// Requests about one model to one hub.
///
/// Redirects are followed here and not by ureq: the token may go to the hub's own scheme, host and
/// port only (ureq's `SameHost` ignores the port), and the first redirect to a content server
/// carries headers that its target does not have.
pub(super) struct Client<'a> {
    agent: Agent,
    /// Without a slash at its end.
    pub(super) endpoint: &'a str,
    pub(super) id: &'a str,
    token: Option<&'a str>,
    token_variable: &'static str,
}

/// The last response of a chain of redirects.
pub(super) struct Answer {
    /// Without its query, which may hold a signature.
    pub(super) url: String,
    pub(super) response: Response<Body>,
    from_hub: bool,
}

/// When to stop following.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    /// At the bytes.
    Follow,
    /// At the first response that names the file's content, which may be the redirect away from the hub.
    UntilEtag,
}

impl<'a> Client<'a> {
    pub(super) fn new(config: &'a HubConfig, id: &'a str) -> Self {
        let (endpoint, token_variable) = match config.hub {
            Hub::HuggingFace => ("https://huggingface.co", "HF_TOKEN"),
            Hub::ModelScope => ("https://modelscope.cn", "MODELSCOPE_API_TOKEN"),
        };
        let agent = Agent::config_builder()
            .user_agent(concat!("glm/", env!("CARGO_PKG_VERSION")))
            // Sizes and ranges are those of the file, not of a compressed transfer.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_per_read(Some(SILENCE))
            .build();
        Self {
            agent: agent.into(),
            endpoint: config.endpoint.as_deref().unwrap_or(endpoint).trim_end_matches('/'),
            id,
            token: config.token.as_deref(),
            token_variable,
        }
    }

    /// Sends a GET, with `range` as its `Range` header. Any status is `Ok`.
    pub(super) fn get(
        &self,
        url: &str,
        range: Option<&str>,
        redirects: Redirects,
    ) -> Result<Answer, HubError> {
        let home = origin(self.endpoint);
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let from_hub = origin(&url) == home;
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.filter(|_| from_hub) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let response = request.call().map_err(|source| HubError::Unreachable {
                origin: origin(&url).unwrap_or_else(|| url.clone()),
                source: Box::new(source),
            })?;
            let location = header(response.headers(), LOCATION.as_str())
                .filter(|_| response.status().is_redirection());
            let named = header(response.headers(), "x-linked-etag")
                .or(header(response.headers(), "etag"))
                .is_some();
            match location {
                // A relative redirect stays at the hub: the model was renamed, or the file is small.
                Some(location)
                    if redirects == Redirects::Follow || is_relative(location) || !named =>
                {
                    url = join(&url, location);
                }
                _ => return Ok(Answer { url: without_query(&url), response, from_hub }),
            }
        }
        Err(HubError::Malformed {
            url: without_query(&url),
            what: format!("more than {REDIRECTS} redirects"),
        })
    }

    /// The error that a status other than success means; `absent` is what 404 means.
    pub(super) fn refusal(&self, answer: &Answer, absent: HubError) -> HubError {
        match answer.response.status().as_u16() {
            status @ (401 | 403) if answer.from_hub => HubError::Denied {
                endpoint: self.endpoint.to_owned(),
                id: self.id.to_owned(),
                status,
                detail: header(answer.response.headers(), "x-error-message")
                    .map_or_else(String::new, |message| format!(": {message}")),
                token_sent: self.token.is_some(),
                variable: self.token_variable,
            },
            404 => absent,
            status => HubError::Status { url: answer.url.clone(), status },
        }
    }

    pub(super) fn no_repository(&self) -> HubError {
        self.absent(format!("model `{}`", self.id))
    }

    pub(super) fn no_revision(&self, revision: &str) -> HubError {
        self.absent(format!("revision `{revision}` of `{}`", self.id))
    }

    pub(super) fn no_file(&self, commit: &str, file: &str) -> HubError {
        self.absent(format!("file `{file}` in `{}` at {commit}", self.id))
    }

    fn absent(&self, what: String) -> HubError {
        HubError::NotFound { endpoint: self.endpoint.to_owned(), what }
    }
}

impl Answer {
    /// Decodes the body.
    pub(super) fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, HubError> {
        let Self { url, mut response, .. } = self;
        response.body_mut().read_json().map_err(|source| match source {
            ureq::Error::Json(error) if !error.is_io() => {
                let what = if error.is_data() { "not what was asked for" } else { "not JSON" };
                HubError::Malformed { url, what: format!("the hub's answer is {what}: {error}") }
            }
            source => HubError::Unreachable { origin: url, source: Box::new(source) },
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    /// Start and size of the file by `Content-Range: bytes start-end/size`.
    pub(super) fn content_range(&self) -> Option<(u64, u64)> {
        let (range, size) =
            self.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()?))
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> HubError {
        HubError::Malformed { url: self.url.clone(), what: what.into() }
    }
}

/// `text` as one component of a path or one value of a query.
pub(super) fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// Where `location` points, seen from `url`.
fn join(url: &str, location: &str) -> String {
    let scheme_end = url.find("://").map_or(0, |at| at + 3);
    let host_end = url[scheme_end..].find(['/', '?']).map_or(url.len(), |at| scheme_end + at);
    if is_relative(location) {
        format!("{}{location}", &url[..host_end])
    } else if location.starts_with("//") {
        format!("{}{location}", &url[..scheme_end.saturating_sub(2)])
    } else {
        location.to_owned()
    }
}

fn is_relative(location: &str) -> bool {
    location.starts_with('/') && !location.starts_with("//")
}

fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_belongs_to_scheme_host_and_port() {
        let home = origin("https://hub.example/prefix");
        assert_eq!(origin("https://HUB.example:443/x?y"), home);
        for other in [
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://hub.example.evil/",
            "hub.example",
        ] {
            assert_ne!(origin(other), home, "{other}");
        }
    }

    #[test]
    fn redirects_are_joined() {
        for (location, wanted) in [
            ("/b?c=1", "https://hub:1/b?c=1"),
            ("//cdn/b", "https://cdn/b"),
            ("http://cdn/b", "http://cdn/b"),
        ] {
            assert_eq!(join("https://hub:1/a/x?q", location), wanted);
        }
    }

    #[test]
    fn revisions_are_one_component() {
        assert_eq!(encode("refs/pr/1 ü"), "refs%2Fpr%2F1%20%C3%BC");
    }
}
