//! A loaded model that answers one request after another.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::{DType, Int, Tensor};
use glm_backends::device::OpenDevice;
use glm_backends::kv::KvPool;
use glm_backends::ranks::Rank;
use glm_models::config::Config;
use glm_models::forward::SequenceInput;
use glm_models::model::Model;
use glm_models::trace::Trace;
use glm_models::weights::{Format, Loader};

use crate::config::EngineConfig;
use crate::error::{EngineError, RequestError};
use crate::kv::Blocks;
use crate::load::{ModelFiles, WeightSource};
use crate::output::Output;
use crate::placement::{check_memory, choose_dtype, in_fp8, stored_dtype};
use crate::request::{Completion, Event, Finish, Request, Timings};
use crate::runner::Runner;
use crate::sampler::Sampler;
use crate::sequence::Sequence;

/// Pages of the cache at the start, the sink included; they double when they run out.
const FIRST_PAGES: usize = 16;
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

/// A loaded model.
#[derive(Debug)]
pub struct Engine {
    pub(crate) files: ModelFiles,
    pub(crate) runner: Runner,
    pub(crate) blocks: Blocks,
    dtype: DType,
    dtype_note: Option<String>,
    pub(crate) context_length: usize,
    prefill_chunk: usize,
}

impl Engine {
    /// Loads the weights to the device.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the tensors do not fit `config.json`, [`EngineError::Dtype`] and
    /// [`EngineError::Memory`] when the device does not fit the model.
    pub fn load(
        files: ModelFiles,
        device: &OpenDevice,
        config: &EngineConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, EngineError> {
        let stored = stored_dtype(&files);
        let (dtype, mut dtype_note) = choose_dtype(stored, device, config)?;
        if dtype.size() > stored.size() && !in_fp8(&files.config, config) {
            let twice = ", which takes twice the memory of the checkpoint";
            dtype_note = dtype_note.map(|note| note + twice);
        }
        check_memory(&files.config, device, dtype, config)?;
        let limit = files.config.max_position_embeddings();
        let context_length = config.max_context.unwrap_or(limit).clamp(1, limit);

        let total_bytes = files.weights.total_bytes();
        let progress = std::cell::RefCell::new(progress);
        let done = Cell::new(0);
        let report = |bytes| {
            done.set(done.get() + bytes);
            (progress.borrow_mut())(LoadProgress { done_bytes: done.get(), total_bytes });
        };
        let format = Format {
            dtype,
            fp8: config.fp8.numerics(),
            quantise: config.quant.quantise(),
            quantization: files.config.quantization().cloned(),
            allow_nan: config.allow_nan,
        };
        let (rank, device) = (Rank::SINGLE, &device.device);
        let loader = match &files.weights {
            WeightSource::Checkpoint(source) => Loader::new(source, device, rank, format, &report),
            WeightSource::Random(weights) => Loader::random(weights, device, rank, format, &report),
        };
        let model = Model::load(loader, &files.config, context_length, config.parts)?;
        (progress.borrow_mut())(LoadProgress { done_bytes: total_bytes, total_bytes });

        let pool = |spec| KvPool::new(spec, FIRST_PAGES, dtype, device);
        let kv = pool(Model::kv_spec(&files.config, Rank::SINGLE));
        let draft_spec = || Model::draft_kv_spec(&files.config, Rank::SINGLE);
        let draft_kv = model.drafts().then(|| pool(draft_spec()));
        Ok(Engine {
            runner: Runner::new(model, kv, draft_kv, device.clone()),
            blocks: Blocks::new(FIRST_PAGES),
            files,
            dtype,
            dtype_note,
            context_length,
            prefill_chunk: config.prefill_chunk.max(1),
        })
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
        let stored = match model.dtype() {
            Some("float16") => DType::F16,
            Some("float32") => DType::F32,
            _ => DType::BF16,
        };
        let (dtype, _) = choose_dtype(stored, device, config)?;
        check_memory(model, device, dtype, config)
    }

    /// Answers a request; `on_event` sees every token as it comes and may break off.
    ///
    /// # Errors
    /// [`RequestError`] when the request cannot be answered; nothing is computed then.
    pub fn generate(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Completion, EngineError> {
        self.check_request(request)?;
        let mut sequence = Sequence::new(request.prompt.clone());
        let result = self.answer(request, &mut sequence, on_event);
        self.blocks.release(sequence.pages);
        result
    }

    /// What was loaded.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Dtype of weights, activations and cache.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Why that is not the checkpoint's, where it is not.
    pub fn dtype_note(&self) -> Option<&str> {
        self.dtype_note.as_deref()
    }

    /// Tokens that a sequence may hold, prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    fn answer(
        &mut self,
        request: &Request,
        sequence: &mut Sequence,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Completion, EngineError> {
        let started = Instant::now();
        let vocab_size = self.files.config.vocab_size();
        let tokens = self.files.tokenizer.vocab_len();
        let device = self.runner.device().clone();
        let mut sampler =
            Sampler::new(&request.sampling, &request.prompt, vocab_size, tokens, &device);
        let mut output = Output::new(&self.files.tokenizer, &request.stop_strings);
        let prompt_tokens = request.prompt.len();
        let room = self.context_length - prompt_tokens;
        let limit = request.max_tokens.unwrap_or(room).min(room);
        let mut timings = Timings { prompt_tokens, ..Timings::default() };
        let mut stop_token = None;
        let mut sampled = None;

        let finish = loop {
            if sequence.tokens.len() - prompt_tokens >= limit {
                break Finish::Length;
            }
            let Some(logits) = self.catch_up(sequence, sampled.take(), on_event) else {
                break Finish::Aborted;
            };
            let chosen = sampler.sample(logits);
            let id = chosen.clone().into_scalar::<u32>();
            if id as usize >= vocab_size {
                return Err(EngineError::NotFinite { dtype: self.dtype.name() });
            }
            sampled = Some(chosen);
            if sequence.tokens.len() == prompt_tokens {
                timings.prompt_seconds = started.elapsed().as_secs_f64();
                timings.time_to_first_token_seconds = timings.prompt_seconds;
            }
            sequence.tokens.push(id);
            if self.ends(request, id) {
                stop_token = Some(id);
                // The end token is told, but has no text.
                let text = output.finish().to_owned();
                let _ = on_event(Event::Token { choice: 0, id, text, logprobs: None });
                break Finish::Stop;
            }
            let (text, stopped) = output.push(id)?;
            let text = text.to_owned();
            let flow = on_event(Event::Token { choice: 0, id, text, logprobs: None });
            if stopped {
                break Finish::Stop;
            }
            if flow.is_break() {
                break Finish::Aborted;
            }
        };
        let token_ids = sequence.tokens.split_off(prompt_tokens);
        timings.decode_tokens = token_ids.len().saturating_sub(1);
        timings.decode_seconds = started.elapsed().as_secs_f64() - timings.prompt_seconds;
        let text = match finish {
            Finish::Stop => String::new(),
            _ => output.finish().to_owned(),
        };
        let _ = on_event(Event::Finished { choice: 0, text, finish, stop_token, timings });
        Ok(Completion { token_ids, text: output.into_text(), finish, stop_token, timings })
    }

    /// Computes what is pending; returns the logits after the last token, `[1, vocab_size]`, or
    /// `None` when the receiver broke off in between.
    fn catch_up(
        &mut self,
        sequence: &mut Sequence,
        mut fed: Option<Tensor<1, Int>>,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Option<Tensor<2>> {
        loop {
            let count = self.chunk(sequence);
            self.reserve(sequence, count);
            let input = planned(sequence, count);
            let step = self.runner.run(&[input], fed.take(), &mut Trace::off());
            sequence.computed += count;
            if sequence.pending() == 0 {
                return Some(step.last_logits());
            }
            let event = Event::Prompt { computed: sequence.computed, total: sequence.tokens.len() };
            if on_event(event).is_break() {
                return None;
            }
        }
    }

    /// How many pending tokens the next step computes.
    pub(crate) fn chunk(&self, sequence: &Sequence) -> usize {
        let length = sequence.tokens.len();
        let fitting = (MAX_SCORES / length).max(1);
        sequence.pending().min(self.prefill_chunk).min(fitting)
    }

    /// Takes pages for the next `count` tokens; the pool doubles when none are left.
    pub(crate) fn reserve(&mut self, sequence: &mut Sequence, count: usize) {
        let tokens = sequence.computed + count;
        let page_size = self.runner.page_size();
        while sequence.reserve(tokens, page_size, &mut self.blocks).is_none() {
            let pages = 2 * self.blocks.total();
            self.runner.grow(pages);
            self.blocks.grow(pages);
        }
    }

    fn ends(&self, request: &Request, id: u32) -> bool {
        let eos = !request.ignore_eos && self.files.generation.eos_token_ids.contains(&id);
        eos || request.stop_token_ids.contains(&id)
    }

    fn check_request(&self, request: &Request) -> Result<(), RequestError> {
        // One token of the context is for the answer.
        self.check_prompt(&request.prompt, self.context_length - 1)?;
        request.sampling.validate()?;
        let vocab_size = self.files.config.vocab_size();
        let out_of_range = |(id, _): &&(u32, f32)| *id as usize >= vocab_size;
        match request.sampling.logit_bias.iter().find(out_of_range) {
            None => Ok(()),
            Some((id, _)) => Err(RequestError::Sampling {
                name: "logit-bias",
                found: format!("for token {id}"),
                wanted: "a token id of the vocabulary",
            }),
        }
    }

    pub(crate) fn check_prompt(&self, prompt: &[u32], most: usize) -> Result<(), RequestError> {
        let vocab_size = self.files.config.vocab_size();
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

pub(crate) fn planned(sequence: &Sequence, count: usize) -> SequenceInput {
    let tokens = sequence.computed..sequence.computed + count;
    SequenceInput {
        tokens: sequence.tokens[tokens].to_vec(),
        computed: sequence.computed,
        pages: sequence.pages.clone(),
    }
}
