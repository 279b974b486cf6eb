//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use glm_models::chat::GLM4;
use glm_runtime::{Engine, Request, TokenMask};

use crate::access::{Client, Keys};
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generate::Watched;
use crate::grammar::{Format, GrammarError, Thinking, Vocabulary};
use crate::metrics::Metrics;
use crate::openai::responses::Stored;
use crate::traces::Traces;

/// The server's state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) keys: Keys,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Option<Traces>,
    pub(crate) responses: Stored,
    /// Seconds since 1970 at the start.
    pub(crate) created: u64,
    model: OnceLock<Served>,
    ready: AtomicBool,
    draining: AtomicBool,
    /// Answers in flight, and those that wait for a place.
    open: Arc<AtomicUsize>,
}

/// The model that is served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) engine: Engine,
    vocabulary: OnceLock<Result<Vocabulary, GrammarError>>,
}

impl App {
    pub(crate) fn new(config: ServerConfig, traces: Option<Traces>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        App {
            keys: Keys::new(&config.keys),
            metrics: Metrics::new(config.names.first().map_or("", String::as_str)),
            traces,
            responses: Stored::default(),
            created: since.as_secs(),
            model: OnceLock::new(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            open: Arc::default(),
            config,
        }
    }

    /// Takes the model that was loaded.
    pub(crate) fn attach(&self, engine: Engine) {
        let _ = self.model.set(Served { engine, vocabulary: OnceLock::new() });
    }

    /// The model has answered once.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// No more requests are taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Answers in flight and waiting.
    pub(crate) fn open_answers(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The first name of the model.
    pub(crate) fn name(&self) -> &str {
        self.config.names.first().map_or("model", String::as_str)
    }

    /// The model, once it is loaded.
    pub(crate) fn model(&self) -> Result<&Served, ApiError> {
        self.model.get().ok_or_else(|| {
            ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "the model is still loading", 5)
        })
    }

    pub(crate) fn engine(&self) -> Result<&Engine, ApiError> {
        Ok(&self.model()?.engine)
    }

    /// The name that a request asks for, which has to be one of ours.
    pub(crate) fn check_model(&self, asked: Option<String>) -> Result<String, ApiError> {
        let Some(asked) = asked else { return Ok(self.name().to_owned()) };
        if self.config.names.contains(&asked) {
            return Ok(asked);
        }
        let message = format!(
            "model: found {asked:?}, wanted one of {:?}: that is what is served here",
            self.config.names
        );
        Err(ApiError {
            param: Some("model".into()),
            ..ApiError::new(StatusCode::NOT_FOUND, message)
        })
    }

    /// Queues requests, all of them or none.
    pub(crate) fn submit(
        self: &Arc<Self>,
        client: &Client,
        requests: Vec<Request>,
    ) -> Result<Vec<Watched>, ApiError> {
        if self.is_draining() {
            let message = "the server is about to stop and takes no more requests";
            return Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, message, 30));
        }
        let engine = self.engine()?;
        let most = engine.limits().max_batch + self.config.max_queue;
        let wanted: usize = requests.iter().map(|request| request.n).sum();
        // A request that no empty server could take is not refused for its size.
        let place = Place::take(&self.open, wanted, most.max(wanted)).ok_or_else(|| {
            self.metrics.refused();
            let message = "too many requests are waiting: try again later";
            ApiError::later(StatusCode::TOO_MANY_REQUESTS, message, 1)
        })?;
        let place = Arc::new(place);
        let watched = |request: Request| {
            let stream = engine.submit(request)?;
            Ok(Watched::new(stream, self.clone(), place.clone(), client))
        };
        requests.into_iter().map(watched).collect()
    }

    /// Compiles what an answer has to look like, on a thread that may block.
    pub(crate) async fn mask(
        self: &Arc<Self>,
        format: Format,
        thought: Thought,
    ) -> Result<Arc<dyn TokenMask>, ApiError> {
        let app = self.clone();
        let compile = move || app.model()?.mask(&format, thought);
        let compiled = tokio::task::spawn_blocking(compile).await;
        compiled.map_err(|_| ApiError::internal("the grammar could not be compiled"))?
    }
}

impl Served {
    /// Token ids of a text. One that the context cannot hold in any case is refused before the work.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        /// Bytes of a token; the longest of GLM's are runs of spaces.
        const TOKEN: usize = 256;
        let most = self.engine.context_length().saturating_mul(TOKEN);
        if text.len() > most {
            let context = self.engine.context_length();
            return Err(ApiError::invalid(format!(
                "the prompt has {} bytes, which no {context} tokens are: the context holds no more",
                text.len()
            )));
        }
        Ok(self.engine.files().tokenizer.encode(text)?)
    }

    /// Compiles what an answer has to look like; takes a while.
    fn mask(&self, format: &Format, thought: Thought) -> Result<Arc<dyn TokenMask>, ApiError> {
        let id = |tag: &str| self.engine.files().tokenizer.token_id(tag);
        let thinking = Thinking {
            open: id(GLM4.think_open).filter(|_| thought == Thought::MayCome),
            close: id(GLM4.think_close).filter(|_| thought != Thought::None),
            starts_inside: thought == Thought::IsOpen,
        };
        Ok(Arc::new(self.vocabulary()?.compile(format, thinking)?))
    }

    /// The vocabulary for grammars, built when it is first needed.
    fn vocabulary(&self) -> Result<&Vocabulary, GrammarError> {
        let build = || {
            let files = self.engine.files();
            let ids = 0..files.tokenizer.vocab_len() as u32;
            let tokens = ids.map(|id| files.tokenizer.bytes(id).unwrap_or_default()).collect();
            let end_ids = &files.generation.eos_token_ids;
            Vocabulary::new(tokens, &files.tokenizer.added_tokens(), end_ids)
        };
        self.vocabulary.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

/// What comes before the part of an answer that has a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thought {
    /// Nothing.
    None,
    /// A thought, if the model opens one.
    MayCome,
    /// The thought that the prompt has opened.
    IsOpen,
}

/// Answers that are counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<AtomicUsize>,
    count: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>, count: usize, most: usize) -> Option<Self> {
        let room = |now: usize| now.checked_add(count).filter(|sum| *sum <= most);
        open.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Place { open: open.clone(), count })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(self.count, Ordering::AcqRel);
    }
}
