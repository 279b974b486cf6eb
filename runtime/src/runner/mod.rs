//! Steps on the device: plain integers in, tensors in between, plain integers out.

mod draft;
mod layout;
mod probe;
mod recorded;
mod slots;

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use glm_backends::kv::KvPool;
use glm_models::forward::{BatchShape, ForwardBatch, SequenceInput};
use glm_models::model::Model;

use crate::sampler::{Logprobs, Sampler};
use crate::step::{Executor, Share, ShareResult, SlotState, StepPlan, StepResult, StepSeconds};
use draft::Drafting;
use layout::{Layout, Place, ints, sampled_shares};
use recorded::Recorded;
use slots::Slots;

/// What a runner is made with.
#[derive(Debug)]
pub(crate) struct RunnerConfig {
    /// Most sequences that have a slot at once.
    pub(crate) max_batch: usize,
    /// Most tokens of a sequence.
    pub(crate) context_length: usize,
    /// Rows of the embedding table.
    pub(crate) vocab_size: usize,
    /// Most prompt tokens of a sequence in a step.
    pub(crate) prefill_chunk: usize,
    /// Tokens of the tokenizer; ids from there on are never chosen.
    pub(crate) tokens: usize,
    /// Compute each sequence by itself, so that nothing depends on its neighbours.
    pub(crate) deterministic: bool,
    /// Wait for the device after each part of a step, so that its time can be told.
    pub(crate) profile: bool,
    /// Record short steps and run the recordings again.
    pub(crate) record_steps: bool,
}

/// Owns what one rank holds: weights, cache, what stays on the device between steps, and a batch
/// for each shape that occurred.
#[derive(Debug)]
pub(crate) struct Runner {
    model: Model,
    kv: KvPool,
    /// Cache of the multi-token-prediction layer, over the same pages.
    draft_kv: Option<KvPool>,
    batches: Batches,
    recorded: Recorded,
    sampler: Sampler,
    slots: Slots,
    launched: VecDeque<Launched>,
    config: RunnerConfig,
    device: Device,
}

/// A step that was launched: for each forward what it leaves for the host.
#[derive(Debug)]
struct Launched {
    parts: Vec<Part>,
    seconds: StepSeconds,
}

/// What a forward leaves for the host.
#[derive(Debug)]
struct Part {
    layout: Layout,
    /// Ids `[sampled, width]`, accepted `[sampled]` and proposed `[drafted, proposes]` in one row,
    /// each padded to a power of two of shares.
    integers: Option<TensorData>,
    /// Drafts that were proposed for a sequence.
    proposes: usize,
    logprobs: Option<Logprobs>,
    prompt_logprobs: Vec<PromptLogprobs>,
}

/// Log-probabilities of tokens of a prompt.
#[derive(Debug)]
struct PromptLogprobs {
    slot: u32,
    next: Vec<u32>,
    logprobs: Logprobs,
}

impl Runner {
    /// A runner of `model` with an empty cache. Drafts need `draft_kv`.
    pub(crate) fn new(
        model: Model,
        kv: KvPool,
        draft_kv: Option<KvPool>,
        config: RunnerConfig,
        device: Device,
    ) -> Self {
        let sampler = Sampler::new(config.max_batch, config.vocab_size, config.tokens, &device);
        Runner {
            model,
            kv,
            draft_kv,
            batches: Batches::default(),
            recorded: Recorded::default(),
            sampler,
            slots: Slots::new(config.max_batch, &device),
            launched: VecDeque::new(),
            config,
            device,
        }
    }

    /// Waits for the device after each part of a step, or no longer does.
    pub(crate) fn set_profile(&mut self, profile: bool) {
        self.config.profile = profile;
    }

    /// Computes the shares in one forward.
    fn launch_part(&mut self, shares: &[Share], propose: usize, seconds: &mut StepSeconds) -> Part {
        let device = self.device.clone();
        let clock = Clock::new(&device, self.config.profile);
        let layout = Layout::new(shares);
        let drafting = self.draft_kv.is_some() && shares.iter().any(|share| share.drafting);

        let inputs: Vec<_> = shares.iter().map(layout::input).collect();
        // One column of the sink: a draft may be written past the pages of its sequence.
        let shape = Batches::shape(&inputs, usize::from(drafting));
        let page_size = self.kv.spec().page_size();
        let batch = self.batches.fill(shape, &inputs, page_size, &self.device);
        let (by_sequence, shift) =
            self.slots.shifts(&layout, shape.sequences, &self.device).unzip();
        if let Some(shift) = by_sequence {
            batch.shift(shift, self.config.context_length - 1);
        }
        if let Some(token_ids) = self.slots.token_ids(&layout, batch, &self.device) {
            batch.set_token_ids(token_ids);
        }
        let hidden = match self.config.record_steps {
            true => self.recorded.forward(&self.model, batch, &mut self.kv, &self.device),
            false => self.recorded.compute(&self.model, batch, &mut self.kv),
        };
        let clock = clock.lap(&mut seconds.forward);

        let prompt_logprobs = shares
            .iter()
            .zip(&layout.shares)
            .filter_map(|(share, place)| self.prompt_logprobs(share, place, &hidden))
            .collect();
        let sampled = (layout.sampled > 0).then(|| {
            let rows = ints(&layout.sampled_rows(), &self.device);
            let logits = self.model.logits(hidden.clone().select(0, rows));
            let rows = sampled_shares(shares);
            let drafts = self.slots.drafts(&layout, &self.device);
            self.sampler.sample(logits, &rows, layout.width, drafts, shift.clone())
        });
        if let Some(sampled) = &sampled {
            self.slots.keep(&layout, sampled, self.config.vocab_size, &self.device);
        }
        let clock = clock.lap(&mut seconds.sampling);

        let mut proposed = None;
        if drafting {
            let sampled = sampled.as_ref();
            let step = Drafting { layout: &layout, shares, shape, hidden, sampled, shift };
            proposed = self.draft(step, propose);
            if let Some(proposed) = &proposed {
                self.slots.keep_proposed(&layout, proposed.clone(), &self.device);
            }
            clock.lap(&mut seconds.drafting);
        }

        let proposes = if proposed.is_some() { propose } else { 0 };
        let integers = sampled.as_ref().map(|sampled| {
            let mut parts = vec![sampled.ids.clone().reshape([-1]), sampled.accepted.clone()];
            parts.extend(proposed.map(|proposed| proposed.reshape([-1])));
            // Starts to read; the wait comes when the values are asked for.
            Tensor::cat(parts, 0).into_data()
        });
        Part {
            layout,
            integers,
            proposes,
            logprobs: sampled.and_then(|sampled| sampled.logprobs),
            prompt_logprobs,
        }
    }

    /// Log-probabilities of the tokens after the rows of a share.
    fn prompt_logprobs(
        &self,
        share: &Share,
        place: &Place,
        hidden: &Tensor<2>,
    ) -> Option<PromptLogprobs> {
        let top = share.prompt_logprobs?;
        let mut next = share.tokens[1..].to_vec();
        next.extend(share.next_token);
        if next.is_empty() {
            return None;
        }
        let rows = hidden.clone().narrow(0, place.first_row, next.len());
        let logprobs = self.sampler.prompt_logprobs(self.model.logits(rows), &next, top);
        Some(PromptLogprobs { slot: share.slot, next, logprobs })
    }
}

impl Executor for Runner {
    fn launch(&mut self, plan: &StepPlan) {
        let mut seconds = StepSeconds::default();
        let parts = match self.config.deterministic {
            false => vec![self.launch_part(&plan.shares, plan.propose, &mut seconds)],
            true => {
                let shares = plan.shares.iter().map(std::slice::from_ref);
                shares.map(|share| self.launch_part(share, plan.propose, &mut seconds)).collect()
            }
        };
        self.launched.push_back(Launched { parts, seconds });
    }

    fn collect(&mut self) -> StepResult {
        let Launched { parts, seconds } =
            self.launched.pop_front().expect("a step that was launched");
        let shares = parts.into_iter().flat_map(|part| part.read(self.config.vocab_size));
        StepResult { shares: shares.collect(), seconds, recording: self.recorded.report() }
    }

    fn open(&mut self, slot: u32, state: &SlotState<'_>) {
        self.sampler.open(slot, state);
    }

    fn reset(&mut self) {
        self.launched.clear();
        // Recordings name buffers that go.
        self.recorded = Recorded::default();
        self.batches = Batches::default();
        self.slots = Slots::new(self.config.max_batch, &self.device);
        let RunnerConfig { max_batch, vocab_size, tokens, .. } = self.config;
        self.sampler = Sampler::new(max_batch, vocab_size, tokens, &self.device);
        // The old pages go before the new ones come.
        for pool in [Some(&mut self.kv), self.draft_kv.as_mut()].into_iter().flatten() {
            let (spec, pages, format) = (pool.spec(), pool.pages(), pool.format());
            *pool = KvPool::new(spec, 1, format, &self.device);
            *pool = KvPool::new(spec, pages, format, &self.device);
        }
    }
}

impl Part {
    /// Waits for the values and hands them out by share.
    fn read(self, vocab_size: usize) -> Vec<ShareResult> {
        let Part { layout, integers, proposes, logprobs, prompt_logprobs } = self;
        let values = integers.as_ref().map_or_else(Vec::new, ids);
        let (ids, rest) = values.split_at(layout.padded() * layout.width);
        let (accepted, proposed) = rest.split_at(layout.padded());
        let mut logprobs = logprobs;
        let mut prompt_logprobs: VecDeque<_> = prompt_logprobs.into();
        let share = |place: &Place| {
            let mut result = ShareResult::default();
            if prompt_logprobs.front().is_some_and(|logprobs| logprobs.slot == place.slot) {
                let PromptLogprobs { next, logprobs, .. } =
                    prompt_logprobs.pop_front().expect("the first");
                result.prompt_logprobs = logprobs.read(&next);
            }
            let Some(index) = place.sampled else { return result };
            let sampled = &ids[index * layout.width..][..=accepted[index] as usize];
            let finite = sampled.iter().take_while(|id| (**id as usize) < vocab_size);
            result.tokens = finite.copied().collect();
            result.not_finite = result.tokens.len() < sampled.len();
            if let Some(drafted) = place.drafted {
                result.proposed =
                    proposed.iter().skip(drafted * proposes).take(proposes).copied().collect();
            }
            if let Some(logprobs) = &mut logprobs {
                result.logprobs = logprobs.take(index, &result.tokens);
            }
            result
        };
        layout.shares.iter().map(share).collect()
    }
}

/// Waits for ids.
fn ids(data: &TensorData) -> Vec<u32> {
    data.try_to_vec_as::<u32>().expect("ids of the device")
}

/// A batch for each shape that occurred.
#[derive(Debug, Default)]
pub(crate) struct Batches(HashMap<BatchShape, ForwardBatch>);

impl Batches {
    /// The smallest shape that holds `inputs` and `spare` more pages of the sink a sequence.
    pub(crate) fn shape(inputs: &[SequenceInput], spare: usize) -> BatchShape {
        let tokens = inputs.iter().map(|input| input.tokens.len()).sum();
        let pages = inputs.iter().map(|input| input.pages.len()).max().unwrap_or(1);
        BatchShape::holding(tokens, inputs.len(), pages + spare)
    }

    /// The batch of a shape, filled with `inputs`.
    pub(crate) fn fill(
        &mut self,
        shape: BatchShape,
        inputs: &[SequenceInput],
        page_size: usize,
        device: &Device,
    ) -> &mut ForwardBatch {
        let batch = self.get(shape, page_size, device);
        batch.fill(inputs);
        batch
    }

    /// The batch of a shape, as it was left.
    fn get(&mut self, shape: BatchShape, page_size: usize, device: &Device) -> &mut ForwardBatch {
        self.0.entry(shape).or_insert_with(|| ForwardBatch::new(shape, page_size, device))
    }
}

/// Tells how long a part of a step takes; on a device that runs by itself only when asked to wait
/// for it.
struct Clock<'a> {
    device: &'a Device,
    waits: bool,
    started: Instant,
}

impl<'a> Clock<'a> {
    fn new(device: &'a Device, waits: bool) -> Self {
        Clock { device, waits, started: Instant::now() }
    }

    fn lap(self, seconds: &mut f64) -> Self {
        if self.waits {
            self.device.sync().expect("a device that computes");
        }
        *seconds += self.started.elapsed().as_secs_f64();
        Clock::new(self.device, self.waits)
    }
}
