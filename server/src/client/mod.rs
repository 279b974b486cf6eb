//! A client of an OpenAI-compatible server, for measuring how fast it answers.

mod events;

use std::io::{self, BufReader, Read as _};
use std::time::{Duration, Instant};

use glm_runtime::measure::Timeline;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use events::{Chunk, Events};

/// Most bytes of an error's body that are read.
const ERROR_BYTES: u64 = 4096;

/// A server, and what is the same in all requests to it.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    /// Without `/v1` and without a slash at its end.
    base: String,
    key: Option<String>,
    /// Which API is asked.
    pub endpoint: Endpoint,
    /// Name of the model.
    pub model: String,
}

/// Which API is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`, the prompt as one user message.
    Chat,
    /// `/v1/completions`
    Completions,
}

/// Why a server cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is no address.
    #[error("`{url}` is no address, wanted http://HOST:PORT or https://HOST")]
    Address {
        /// What was given.
        url: String,
    },
    /// No answer.
    #[error("{url}: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// An answer that says no.
    #[error("{url}: status {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The first line of what it said.
        body: String,
    },
    /// An answer that is not what it should be.
    #[error("{url}: {what}")]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Client {
    /// A client of the server at `url`, with or without `/v1` at its end. Nothing is sent yet. A
    /// connection on which nothing comes for `silence` is given up.
    ///
    /// # Errors
    /// [`ClientError::Address`]
    pub fn new(
        url: &str,
        key: Option<String>,
        endpoint: Endpoint,
        silence: Duration,
    ) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/');
        let host = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
        if host.is_none_or(str::is_empty) || base.contains(char::is_whitespace) {
            return Err(ClientError::Address { url: url.to_owned() });
        }
        let agent = Agent::config_builder()
            .user_agent(concat!("glm/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            // Otherwise connections beyond a few would be opened anew for each request.
            .max_idle_connections(1024)
            .max_idle_connections_per_host(1024)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .build();
        let (agent, base) = (agent.into(), base.to_owned());
        Ok(Client { agent, base, key, endpoint, model: String::new() })
    }

    /// Names of the server's models.
    ///
    /// # Errors
    /// [`ClientError`] where it does not say.
    pub fn models(&self) -> Result<Vec<String>, ClientError> {
        let url = format!("{}/v1/models", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let response = request.call().map_err(|error| unreachable(&url, &error))?;
        let mut response = accept(&url, response)?;
        let body = response.body_mut().read_json::<Value>();
        let body = body.map_err(|error| malformed(&url, error.to_string()))?;
        let models = body["data"].as_array().into_iter().flatten();
        let names: Vec<_> =
            models.filter_map(|model| Some(model["id"].as_str()?.to_owned())).collect();
        match names.is_empty() {
            true => Err(malformed(&url, "it names no model".into())),
            false => Ok(names),
        }
    }

    /// Has `prompt` answered with `max_tokens` tokens, past the model's own end where the server
    /// knows `ignore_eos`, and notes when what came. `began` is the time from which a timeline
    /// counts. What goes wrong is in the timeline's `error`.
    pub fn ask(&self, prompt: &str, max_tokens: usize, began: Instant) -> Timeline {
        let now = || began.elapsed().as_secs_f64();
        let mut timeline = Timeline { sent: now(), ..Timeline::default() };
        if let Err(error) = self.stream(prompt, max_tokens, &mut timeline, &now) {
            timeline.error = Some(error.to_string());
        }
        timeline.ended = now();
        timeline
    }

    fn stream(
        &self,
        prompt: &str,
        max_tokens: usize,
        timeline: &mut Timeline,
        now: &dyn Fn() -> f64,
    ) -> Result<(), ClientError> {
        let (path, key, value) = match self.endpoint {
            Endpoint::Chat => {
                ("chat/completions", "messages", json!([{"role": "user", "content": prompt}]))
            }
            Endpoint::Completions => ("completions", "prompt", json!(prompt)),
        };
        let url = format!("{}/v1/{path}", self.base);
        let mut body = json!({
            "model": self.model,
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": true,
        });
        body[key] = value;
        let mut request = self.agent.post(&url).header("Accept", "text/event-stream");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let response = request.send_json(&body).map_err(|error| unreachable(&url, &error))?;
        let response = accept(&url, response)?;
        let mut events = Events::new(BufReader::new(response.into_body().into_reader()));
        let (mut chunks, mut counted) = (0, None);
        loop {
            let chunk = events.next().map_err(|error| malformed(&url, error.to_string()))?;
            match chunk {
                Chunk::Text => {
                    chunks += 1;
                    timeline.arrivals.push((now(), 1));
                }
                Chunk::Usage { prompt_tokens, cached_tokens, completion_tokens } => {
                    timeline.prompt_tokens = prompt_tokens;
                    timeline.cached_tokens = cached_tokens;
                    counted = Some(completion_tokens);
                }
                Chunk::Nothing => {}
                Chunk::Error(what) => return Err(malformed(&url, what)),
                Chunk::Done => break,
            }
        }
        timeline.output_tokens = counted.unwrap_or(chunks);
        match chunks {
            0 => Err(malformed(&url, "the answer has no text".into())),
            _ => Ok(()),
        }
    }
}

/// The response of a server that did what it was asked.
fn accept(url: &str, mut response: Response<Body>) -> Result<Response<Body>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = Vec::new();
    // What can be read of it has to do.
    let _: io::Result<usize> =
        response.body_mut().as_reader().take(ERROR_BYTES).read_to_end(&mut body);
    let body = String::from_utf8_lossy(&body);
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    let body = body.chars().take(300).collect();
    Err(ClientError::Refused { url: url.to_owned(), status: status.as_u16(), body })
}

fn unreachable(url: &str, error: &ureq::Error) -> ClientError {
    ClientError::Unreachable { url: url.to_owned(), reason: error.to_string() }
}

fn malformed(url: &str, what: String) -> ClientError {
    ClientError::Malformed { url: url.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_or_without_its_version() {
        let base = |url: &str| {
            Client::new(url, None, Endpoint::Chat, Duration::from_secs(1)).map(|client| client.base)
        };
        for url in ["http://a:8000", "http://a:8000/", "http://a:8000/v1", "http://a:8000/v1/"] {
            assert_eq!(base(url).unwrap(), "http://a:8000");
        }
        assert_eq!(base("https://a/openai/v1").unwrap(), "https://a/openai");
        for wrong in ["a:8000", "http://", "ftp://a", "http://a b"] {
            let error = base(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}` is no address")), "{error}");
        }
    }
}
