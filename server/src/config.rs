//! What a server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use glm_runtime::SamplingParams;

/// Resolved choices of `glm serve`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any that is free.
    pub address: SocketAddr,
    /// Names of the model; the first one is reported, all are accepted.
    pub names: Vec<String>,
    /// Keys of clients; none lets everybody in.
    pub keys: Vec<String>,
    /// Listen beyond this machine without a key.
    pub insecure_no_auth: bool,
    /// Values of the `Host` header that are let in besides this machine's own names, where the
    /// server listens on this machine alone.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may ask; `*` for all.
    pub cors_origins: Vec<String>,
    /// Certificate chain and key, in PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Requests that may wait for a place beside those that are computed; more are refused.
    pub max_queue: usize,
    /// Longest time of a request.
    pub request_timeout: Option<Duration>,
    /// How long answers in flight may go on once the server is asked to stop.
    pub drain: Duration,
    /// How tokens are chosen where a request says nothing.
    pub sampling: SamplingParams,
    /// Most tokens of an answer where a request says nothing.
    pub max_tokens: Option<usize>,
    /// Address of a collector of OpenTelemetry, over HTTP, that spans of answers are sent to.
    pub otlp_endpoint: Option<String>,
    /// Write vLLM's names of metrics besides ours.
    pub vllm_metrics: bool,
    /// Leave the line of Claude Code's system prompt out that differs from request to request.
    pub strip_billing_line: bool,
}

impl ServerConfig {
    /// A server on this machine alone, for a model of this name.
    pub fn new(name: impl Into<String>) -> Self {
        ServerConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 8000)),
            names: vec![name.into()],
            keys: Vec::new(),
            insecure_no_auth: false,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
            max_queue: 256,
            request_timeout: None,
            drain: Duration::from_secs(30),
            sampling: SamplingParams { temperature: 1.0, ..SamplingParams::greedy() },
            max_tokens: None,
            otlp_endpoint: None,
            vllm_metrics: true,
            strip_billing_line: true,
        }
    }
}
