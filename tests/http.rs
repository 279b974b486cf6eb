//! The server as clients see it: bytes in, bytes out, on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::Duration;

use glm_runtime::{DraftChoice, DtypeChoice, Engine, EngineConfig};
use glm_server::{ServeError, Server, ServerConfig, Shutdown};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::support::checkpoint::BUILT_IN;
use crate::support::oracle;

mod access;
mod clients;
mod completions;
mod conversations;
mod features;
mod hard;
mod launch;
mod messages;
mod responses;

/// A server of the built-in model on a port of its own, until it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl TestServer {
    pub(crate) fn start(
        configure: impl FnOnce(&mut ServerConfig),
        tune: impl FnOnce(&mut EngineConfig),
    ) -> Self {
        let mut config = ServerConfig::new("glm-tiny");
        config.address = SocketAddr::from(([127, 0, 0, 1], 0));
        config.sampling.temperature = 0.0;
        configure(&mut config);
        let device = oracle::device("cpu").expect("the CPU");
        let mut engine_config = EngineConfig {
            dtype: DtypeChoice::F32,
            max_context: Some(1024),
            drafts: DraftChoice::Fixed(0),
            ..EngineConfig::default()
        };
        tune(&mut engine_config);
        let engine = oracle::load(Path::new(BUILT_IN), &device, &engine_config);
        let server = Server::bind(config).expect("a port");
        let (address, shutdown) = (server.address(), server.shutdown());
        let (sender, ready) = std::sync::mpsc::channel();
        let served = engine.clone();
        let thread = std::thread::spawn(move || {
            server.run(|| Ok(served), |_| sender.send(()).expect("the test waits"))
        });
        ready.recv().expect("a server that is ready");
        TestServer { address, engine, shutdown, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) {
        self.shutdown.ask();
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("no panic").expect("no error");
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(agent().get(format!("{}{path}", self.url())).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body)
    }

    pub(crate) fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = agent().post(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send_json(body))
    }

    /// A post that has to succeed.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
        answer.json()
    }

    /// The same with `stream`, event by event: their names (or none) and data.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<(String, Value)> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let answer = self.post(path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
        assert!(answer.header("content-type").starts_with("text/event-stream"));
        events(&answer.text)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.ask();
        self.shutdown.ask();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    fn of(answer: Result<Response<Body>, ureq::Error>) -> Self {
        let mut answer = answer.expect("an answer");
        let headers = answer.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
            .collect();
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().expect("text");
        Answer { status, headers, text }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Message of an error in OpenAI's form, or Anthropic's.
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(300)))
        .build();
    config.into()
}

/// Events of a text of them.
fn events(text: &str) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    let mut name = String::new();
    for line in BufReader::new(text.as_bytes()).lines() {
        let line = line.expect("a line");
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data = serde_json::from_str(data).unwrap_or_else(|_| data.into());
            events.push((std::mem::take(&mut name), data));
        } else {
            assert!(line.is_empty() || line.starts_with(':'), "{line}");
        }
    }
    events
}

/// One server that most tests share.
static SHARED: LazyLock<TestServer> = LazyLock::new(|| TestServer::start(|_| (), |_| ()));

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Questions that the built-in model was trained on.
const SUM: &str = "What is 7 + 5?";
