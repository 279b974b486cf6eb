//! The handle to a loaded model, which answers many requests at once on a thread of its own.

use std::cell::Cell;
use std::fmt;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use burn::tensor::DType;
use futures_core::Stream;
use glm_backends::device::OpenDevice;
use glm_models::config::Config;
use glm_models::plan::Plan;
use glm_models::trace::TensorRecord;

use crate::config::EngineConfig;
use crate::core::{Command, Submission};
use crate::error::{EngineError, Failure, RequestError};
use crate::handoff::{MailboxSender, StreamReceiver, mailbox, stream};
use crate::load::ModelFiles;
use crate::placement::{check_memory, check_quant, choose_dtype};
use crate::request::{Completion, Event, Finish, Request, Timings};
use crate::runner::Runner;
use crate::start;
use crate::stats::Stats;

/// Most scores, in tokens of a step × tokens of the sequence, that the reference attention holds
/// at once for each head: long prompts are computed in smaller steps.
pub const MAX_SCORES: usize = 1 << 22;

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of the weights' files that are on the device.
    pub done_bytes: u64,
    /// Bytes of the weights' files.
    pub total_bytes: u64,
}

/// What an engine has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// Most tokens of a sequence, prompt and answer together.
    pub context_length: usize,
    /// Sequences that are computed at once; others wait.
    pub max_batch: usize,
    /// Tokens that the cache has room for, all sequences together.
    pub kv_tokens: usize,
    /// Bytes that a token takes in the cache.
    pub kv_bytes_per_token: usize,
    /// What the cache is stored in.
    pub kv_dtype: &'static str,
    /// Most drafts of a step; 0 without them.
    pub most_drafts: usize,
}

/// A loaded model. Clones are handles to the same one; when the last of them is dropped, what is
/// in flight fails and the model leaves the device.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    files: Arc<ModelFiles>,
    commands: MailboxSender<Command<Runner>, String>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<Stats>>,
    limits: EngineLimits,
    plan: Plan,
    dtype: DType,
    dtype_note: Option<String>,
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {
    receiver: StreamReceiver<Event>,
    /// Answers that have not ended.
    open: usize,
}

impl Engine {
    /// Loads the weights to the device and starts the engine's thread.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the tensors do not fit `config.json`, [`EngineError::Dtype`],
    /// [`EngineError::Memory`] and [`EngineError::Cache`] when the device does not fit the model.
    pub fn load(
        files: ModelFiles,
        device: &OpenDevice,
        config: &EngineConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, EngineError> {
        config.validate()?;
        let total_bytes = files.weights.total_bytes();
        let progress = std::cell::RefCell::new(progress);
        let done = Cell::new(0);
        let report = |bytes| {
            done.set(done.get() + bytes);
            (progress.borrow_mut())(LoadProgress { done_bytes: done.get(), total_bytes });
        };
        let threads = start::threads(config);
        // For what is computed while weights are loaded; where there are threads already, they stay.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        let started = start::load(files, device, config, &report)?;
        (progress.borrow_mut())(LoadProgress { done_bytes: total_bytes, total_bytes });
        let (commands, mailbox) = mailbox();
        let stats = Arc::new(Mutex::new(Stats::default()));
        let start::Loaded { files, runner, scheduler, core, limits, plan, dtype, dtype_note } =
            started;
        let thread = start::spawn(runner, scheduler, mailbox, stats.clone(), core, threads)?;
        let thread = Some(thread);
        let inner = Inner { files, commands, thread, stats, limits, plan, dtype, dtype_note };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// Refuses what [`Engine::load`] would refuse for the device's sake, by `config.json` alone: to
    /// be asked before the weights are downloaded.
    ///
    /// # Errors
    /// [`EngineError::Dtype`] and [`EngineError::Memory`].
    pub fn check(
        model: &Config,
        device: &OpenDevice,
        config: &EngineConfig,
    ) -> Result<(), EngineError> {
        config.validate()?;
        let stored = match model.dtype() {
            Some("float16") => DType::F16,
            Some("float32") => DType::F32,
            _ => DType::BF16,
        };
        let (dtype, _) = choose_dtype(stored, device, config)?;
        check_quant(device, config)?;
        check_memory(model, device, [dtype, stored], config)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`RequestError`] when it cannot be answered; nothing is queued then.
    pub fn submit(&self, request: Request) -> Result<EventStream, RequestError> {
        let limit = self.check_request(&request)?;
        let (sender, receiver) = stream();
        let open = request.n;
        let mut end_ids = request.stop_token_ids.clone();
        if !request.ignore_eos {
            end_ids.extend(&self.inner.files.generation.eos_token_ids);
        }
        let vocab_size = self.inner.files.config.vocab_size();
        let submitted = Instant::now();
        let submission = Submission { request, limit, end_ids, vocab_size, submitted, sender };
        let command = Command::Submit(Box::new(submission));
        match self.inner.commands.send(command) {
            Ok(()) => Ok(EventStream { receiver, open }),
            Err(refused) => Err(RequestError::Stopped {
                reason: refused.reason.unwrap_or_else(|| "its thread is gone".into()),
            }),
        }
    }

    /// Answers a request on the calling thread's time; `on_event` sees every event as it comes and
    /// may break off. For one answer.
    ///
    /// # Errors
    /// [`RequestError`] when the request cannot be answered, [`Failure`] when it failed on the way.
    pub fn generate(
        &self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Completion, EngineError> {
        let mut stream = self.submit(Request { n: 1, ..request.clone() })?;
        let mut completion = Completion {
            token_ids: Vec::new(),
            text: String::new(),
            finish: Finish::Aborted,
            stop_token: None,
            timings: Timings { prompt_tokens: request.prompt.len(), ..Timings::default() },
        };
        let started = Instant::now();
        let mut first = None;
        while let Some(event) = stream.blocking_next() {
            match &event {
                Event::Token { id, text, .. } => {
                    first.get_or_insert_with(Instant::now);
                    completion.token_ids.push(*id);
                    completion.text.push_str(text);
                }
                Event::Finished { text, finish, stop_token, timings, .. } => {
                    completion.text.push_str(text);
                    completion.finish = *finish;
                    completion.stop_token = *stop_token;
                    completion.timings = *timings;
                }
                Event::Failed(failure) => return Err(failure.clone().into()),
                Event::Prompt { .. } | Event::PromptLogprobs(_) => {}
            }
            let ended = matches!(event, Event::Finished { .. });
            if on_event(event).is_break() && !ended {
                // What came until then.
                let timings = &mut completion.timings;
                timings.decode_tokens = completion.token_ids.len().saturating_sub(1);
                if let Some(first) = first {
                    timings.time_to_first_token_seconds = (first - started).as_secs_f64();
                    timings.prompt_seconds = timings.time_to_first_token_seconds;
                    timings.decode_seconds = first.elapsed().as_secs_f64();
                }
                break;
            }
        }
        Ok(completion)
    }

    /// Computes `token_ids` once and returns `logits [tokens, vocab_size]`, and with `trace` the
    /// values in between, under the names of the reference files.
    ///
    /// # Errors
    /// [`RequestError`] for ids that are no prompt.
    pub fn trace_forward(
        &self,
        token_ids: &[u32],
        trace: bool,
    ) -> Result<Vec<(String, TensorRecord)>, EngineError> {
        self.check_prompt(token_ids, self.inner.limits.context_length)?;
        let ids = token_ids.to_vec();
        self.job(move |runner| runner.trace_forward(&ids, trace))
    }

    /// Computes `token_ids` and what the multi-token-prediction layer drafts after them:
    ///
    /// - `mtp.token_in [tokens]`: the token after each row, after the last one the main model's
    ///   most probable one
    /// - `mtp.logits_step1 [tokens, vocab_size]`: logits of the token after that
    /// - `mtp.chain_tokens [3]`, `mtp.chain_logits [3, vocab_size]`: three greedy drafts from the
    ///   last row, each from the last one's hidden state after `shared_head.norm`
    ///
    /// # Errors
    /// [`EngineError::NoDrafts`] when no such layer was loaded, [`RequestError`] for ids that are
    /// no prompt.
    pub fn trace_drafts(
        &self,
        token_ids: &[u32],
    ) -> Result<Vec<(String, TensorRecord)>, EngineError> {
        self.check_prompt(token_ids, self.inner.limits.context_length.saturating_sub(3))?;
        let ids = token_ids.to_vec();
        self.job(move |runner| runner.trace_drafts(&ids))?.ok_or(EngineError::NoDrafts)
    }

    /// What was loaded.
    pub fn files(&self) -> &ModelFiles {
        &self.inner.files
    }

    /// Dtype of weights and activations.
    pub fn dtype(&self) -> DType {
        self.inner.dtype
    }

    /// Why that is not the checkpoint's, where it is not.
    pub fn dtype_note(&self) -> Option<&str> {
        self.inner.dtype_note.as_deref()
    }

    /// What the engine has room for.
    pub fn limits(&self) -> EngineLimits {
        self.inner.limits
    }

    /// Tokens that a sequence may hold, prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.inner.limits.context_length
    }

    /// What the engine counted so far.
    pub fn stats(&self) -> Stats {
        self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sizes of the model as it was loaded.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// From now on, waits for the device after each part of a step, or no longer does: see
    /// [`EngineConfig::profile`].
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the engine is gone.
    pub fn set_profile(&self, profile: bool) -> Result<(), EngineError> {
        self.job(move |runner| runner.set_profile(profile))
    }

    /// Runs something on the engine's thread, between two steps.
    fn job<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Runner) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (sender, mut receiver) = stream();
        let job = Box::new(move |runner: &mut Runner| {
            sender.send(job(runner));
        });
        let _ = self.inner.commands.send(Command::Job(job));
        let reason = || "the engine's thread ended on the way".to_owned();
        receiver.blocking_next().ok_or_else(|| Failure::Engine { reason: reason() }.into())
    }

    /// Checks everything about a request; returns the most tokens it may have.
    fn check_request(&self, request: &Request) -> Result<usize, RequestError> {
        let EngineLimits { context_length, .. } = self.inner.limits;
        // One token of the context is for the answer.
        self.check_prompt(&request.prompt, context_length - 1)?;
        request.validate(self.inner.files.config.vocab_size())?;
        if request.thinking_budget.is_some()
            && self.inner.files.tokenizer.token_id("</think>").is_none()
        {
            return Err(RequestError::Parameter {
                name: "thinking-budget",
                found: "given".into(),
                wanted: "none: the tokenizer has no token </think>".into(),
            });
        }
        let room = context_length - request.prompt.len();
        Ok(request.prompt.len() + request.max_tokens.unwrap_or(room).min(room))
    }

    fn check_prompt(&self, prompt: &[u32], most: usize) -> Result<(), RequestError> {
        let vocab_size = self.inner.files.config.vocab_size();
        if prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if let Some(position) = prompt.iter().position(|id| *id as usize >= vocab_size) {
            let id = prompt[position];
            return Err(RequestError::TokenOutOfRange { position, id, vocab_size });
        }
        if prompt.len() > most {
            return Err(RequestError::PromptTooLong { found: prompt.len(), most });
        }
        Ok(())
    }
}

impl EventStream {
    /// The next event, waited for by blocking the thread; `None` after the last. An engine that
    /// goes away without a word is a [`Failure::ShutDown`].
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.open == 0 {
            return None;
        }
        let event = self.receiver.blocking_next();
        Some(self.seen(event))
    }

    fn seen(&mut self, event: Option<Event>) -> Event {
        let event = event.unwrap_or(Event::Failed(Failure::ShutDown));
        match &event {
            Event::Finished { .. } => self.open -= 1,
            Event::Failed(_) => self.open = 0,
            _ => {}
        }
        event
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.blocking_next()
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.open == 0 {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.receiver).poll_next(context).map(|event| Some(self.seen(event)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::ShutDown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("limits", &self.limits).finish_non_exhaustive()
    }
}
