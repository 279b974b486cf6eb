//! A device and an engine of integers, for tests: every row of every page knows what it was
//! computed from, and a "model" tells the next token from that.

use std::collections::{HashMap, VecDeque};

use glm_models::forward::BatchShape;

use super::{Limits, NewSequence, Scheduler};
use crate::step::{SequenceId, Share, StepPlan};

/// Few tokens, so that wrong drafts are right by chance and prompts begin alike.
const VOCAB: u64 = 5;

/// A value that depends on both.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_add(0xD1B5_4A32_D192_ED03);
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

pub(super) fn token(value: u64) -> u32 {
    (value % VOCAB) as u32
}

/// What a row stands for: its token and all before it.
fn histories(tokens: &[u32]) -> Vec<u64> {
    let step = |history: &mut u64, token: &u32| {
        *history = mix(*history, u64::from(*token));
        Some(*history)
    };
    tokens.iter().scan(7, step).collect()
}

/// A request, and all tokens that it has in the end, and some more.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) tokens: Vec<u32>,
    pub(super) limit: usize,
    /// Tokens with which it ends.
    end: usize,
    seed: u64,
    known: usize,
    salt: u64,
    /// First row and rows of all shares that counted.
    pub(super) shares: Vec<(usize, usize)>,
}

impl Truth {
    fn new(prompt: Vec<u32>, limit: usize, seed: u64, salt: u64, ends: bool) -> Self {
        let (known, mut tokens) = (prompt.len(), prompt);
        let mut end = None;
        while tokens.len() < limit + 12 {
            let history = histories(&tokens)[tokens.len() - 1];
            let next = token(mix(history, seed));
            tokens.push(next);
            // One in about 40 is an end token.
            if ends && mix(history, seed + 1).is_multiple_of(40) {
                end.get_or_insert(tokens.len());
            }
        }
        let end = end.unwrap_or(limit).min(limit);
        Truth { tokens, limit, end, seed, known, salt, shares: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    history: u64,
    draft_layer: bool,
}

#[derive(Debug, Default)]
struct Slot {
    owner: Option<SequenceId>,
    last: u32,
    drafts: Vec<u32>,
    verified: usize,
    accepted: usize,
}

/// What was launched and is not read.
type InFlight = (StepPlan, Vec<Vec<u32>>);

/// Engine and device in one.
#[derive(Debug)]
pub(super) struct World {
    pub(super) limits: Limits,
    pub(super) scheduler: Scheduler,
    pub(super) truths: HashMap<SequenceId, Truth>,
    pub(super) finished: usize,
    pages: Vec<Vec<Option<Row>>>,
    slots: Vec<Slot>,
    in_flight: VecDeque<InFlight>,
    next_id: u64,
    steps: u64,
    /// Of 100 drafts, how many are right on purpose.
    pub(super) skill: u64,
    /// Answers may end before their limit.
    pub(super) ends: bool,
}

/// What a test says of a sequence.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) prompt: Vec<u32>,
    pub(super) answer: usize,
    pub(super) priority: i32,
    pub(super) salt: u64,
    pub(super) drafting: bool,
    pub(super) logits_of_prompt: bool,
    pub(super) waits: bool,
    /// Answers to the prompt.
    pub(super) n: usize,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        World {
            limits,
            scheduler: Scheduler::new(limits),
            truths: HashMap::new(),
            finished: 0,
            pages: vec![vec![None; limits.page_size]; limits.pages],
            slots: (0..limits.max_batch).map(|_| Slot::default()).collect(),
            in_flight: VecDeque::new(),
            next_id: 0,
            steps: 0,
            skill: 60,
            ends: false,
        }
    }

    /// Adds the answers of a request, where they fit; returns the first one's id.
    pub(super) fn add(&mut self, ask: &Ask) -> Option<SequenceId> {
        let limit = (ask.prompt.len() + ask.answer).min(self.limits.context_length);
        if !self.scheduler.fits(limit) || ask.prompt.len() >= limit {
            return None;
        }
        let first = SequenceId(self.next_id);
        for choice in 0..ask.n.max(1) {
            let id = SequenceId(self.next_id);
            self.next_id += 1;
            self.scheduler.add(NewSequence {
                id,
                tokens: ask.prompt.clone(),
                limit,
                priority: ask.priority,
                salt: ask.salt.to_le_bytes().to_vec(),
                drafting: ask.drafting,
                logits_of_prompt: ask.logits_of_prompt && choice == 0,
                after: (choice > 0).then_some(first),
            });
            self.scheduler.set_waits(id, ask.waits);
            let truth = Truth::new(ask.prompt.clone(), limit, id.0, ask.salt, self.ends);
            self.truths.insert(id, truth);
        }
        self.scheduler.check();
        Some(first)
    }

    /// Some sequence that is there.
    pub(super) fn pick(&self, choice: usize) -> Option<SequenceId> {
        let mut ids: Vec<_> = self.truths.keys().copied().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids[choice % ids.len()])
    }

    pub(super) fn cancel(&mut self, id: SequenceId) {
        self.truths.remove(&id);
        self.scheduler.remove(id);
        self.scheduler.check();
    }

    /// One turn of the engine: plan, launch, read the step before.
    pub(super) fn step(&mut self, propose: usize) -> StepPlan {
        self.steps += 1;
        let plan = self.scheduler.schedule(propose);
        self.scheduler.check();
        self.check_plan(&plan);
        for (id, slot) in self.scheduler.opened() {
            self.slots[slot as usize] = Slot { owner: Some(id), ..Slot::default() };
        }
        let results = plan.shares.iter().map(|share| self.compute(share, plan.propose)).collect();
        self.in_flight.push_back((plan.clone(), results));
        if self.in_flight.len() > 1 || plan.shares.is_empty() {
            self.collect();
        }
        self.scheduler.check();
        self.check_pages();
        plan
    }

    /// Reads everything that was launched.
    pub(super) fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.collect();
        }
        self.scheduler.check();
    }

    /// Steps until every sequence has its answer.
    pub(super) fn finish(&mut self, propose: usize) {
        let work: usize = self.truths.values().map(|truth| truth.limit).sum();
        let most = self.steps + 40 * (work as u64 + 10);
        while !self.truths.is_empty() {
            assert!(self.steps < most, "no end: {:?}", self.scheduler.counts());
            self.step(propose);
        }
        self.drain();
        let counts = self.scheduler.counts();
        assert_eq!((counts.running, counts.waiting, counts.held_pages), (0, 0, 0));
    }

    fn collect(&mut self) {
        let Some((plan, results)) = self.in_flight.pop_front() else { return };
        for (share, sampled) in plan.shares.iter().zip(results) {
            let id = share.sequence.expect("an owner");
            if !share.sample {
                continue;
            }
            self.scheduler.commit(id, &sampled);
            let Some(truth) = self.truths.get_mut(&id) else { continue };
            let wanted = &truth.tokens[truth.known..truth.known + sampled.len()];
            assert_eq!(sampled, wanted, "answer of {id:?}");
            truth.known += sampled.len();
            assert!(truth.known <= truth.limit, "{id:?} went past its limit");
            if truth.known >= truth.end {
                self.finished += 1;
                self.truths.remove(&id);
                self.scheduler.remove(id);
            }
        }
    }

    /// The rows of a share, from what the device holds alone; returns what was sampled.
    fn compute(&mut self, share: &Share, propose: usize) -> Vec<u32> {
        let id = share.sequence.expect("an owner");
        let page_size = self.limits.page_size;
        let slot = &mut self.slots[share.slot as usize];
        assert_eq!(slot.owner, Some(id), "slot {}", share.slot);
        let truth = self.truths.get_mut(&id).expect("a sequence that is there");
        assert!(!share.shifted || share.fed, "only what follows an unread step is shifted");
        assert!(!share.shifted || slot.verified > 0, "shifted by no drafts");
        let first = share.computed + if share.shifted { slot.accepted } else { 0 };
        let count = share.tokens.len();
        let mut ids = share.tokens.clone();
        if share.fed {
            assert_eq!(count, 1, "one token is fed");
            ids[0] = slot.last;
        }
        assert!(share.drafts == 0 || count == 1 && share.sample, "drafts follow one token");
        ids.extend_from_slice(&slot.drafts[..share.drafts]);
        assert_eq!(ids[..count], truth.tokens[first..first + count], "tokens of {id:?}");
        assert_eq!(share.next_token.is_none(), share.sample, "next token of {id:?}");
        if let Some(next) = share.next_token {
            assert_eq!(next, truth.tokens[first + count], "next token of {id:?}");
        }

        let place = |position: usize| {
            let page = share.pages[position / page_size];
            assert_ne!(page, 0, "the sink belongs to nobody");
            (page as usize, position % page_size)
        };
        let wanted = histories(&truth.tokens[..first + count]);
        for (position, history) in wanted[..first].iter().enumerate() {
            let (page, row) = place(position);
            let found = self.pages[page][row].expect("a computed row");
            assert_eq!(found.history, *history, "row {position} of {id:?}");
            assert!(found.draft_layer || !share.drafting, "draft row {position} of {id:?}");
        }
        let mut history = if first == 0 { 7 } else { wanted[first - 1] };
        let mut sampled = Vec::new();
        let mut right = true;
        for (offset, id) in ids.iter().enumerate() {
            let (page, row) = place(first + offset);
            history = mix(history, u64::from(*id));
            self.pages[page][row] = Some(Row { history, draft_layer: share.drafting });
            // A draft is accepted when it is the token that was sampled before it.
            right &= offset < count || sampled.last() == Some(id);
            if share.sample && right && offset + 1 >= count {
                sampled.push(token(mix(history, truth.seed)));
            }
        }
        truth.shares.push((first, count + share.drafts));
        if !share.sample {
            return sampled;
        }
        slot.verified = share.drafts;
        slot.accepted = sampled.len() - 1;
        slot.last = *sampled.last().expect("a token");
        slot.drafts.clear();
        if share.drafting {
            let next = first + count + sampled.len();
            slot.drafts.extend((0..propose).map(|draft| {
                let draw = mix(mix(id.0, self.steps), draft as u64);
                let known = truth.tokens.get(next + draft).copied();
                known.filter(|_| draw % 100 < self.skill).unwrap_or(token(draw >> 32))
            }));
        }
        sampled
    }

    fn check_plan(&self, plan: &StepPlan) {
        let limits = &self.limits;
        assert!(plan.shares.len() <= limits.max_batch, "sequences of a step");
        assert!(plan.rows() <= limits.step_tokens, "rows of a step");
        let mut slots: Vec<u32> = plan.shares.iter().map(|share| share.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), plan.shares.len(), "a slot each");
        // What is not sampled after is a part of more.
        let long = |share: &&Share| share.tokens.len() > 1 || !share.sample;
        let chunks: usize = plan.shares.iter().filter(long).map(Share::rows).sum();
        assert!(plan.shares.iter().filter(long).all(|it| it.rows() <= limits.prefill_chunk));
        let alone = plan.shares.iter().all(|share| long(&share));
        assert!(alone || chunks <= limits.prefill_chunk, "chunks beside single tokens");
        for share in &plan.shares {
            let truth = &self.truths[&share.sequence.expect("an owner")];
            let shift = if share.shifted { self.slots[share.slot as usize].verified } else { 0 };
            let end = share.computed + shift + share.rows();
            assert!(end <= truth.limit.min(limits.context_length), "rows within the context");
            assert!(share.drafts == 0 || share.drafting);
            let shape = self.shape(std::slice::from_ref(share));
            if limits.deterministic && share.rows() > 1 {
                assert!(limits.max_scores.is_none_or(|most| self.scores(shape) <= most));
            }
        }
        if !limits.deterministic && plan.rows() > 1 {
            let scores = self.scores(self.shape(&plan.shares));
            assert!(limits.max_scores.is_none_or(|most| scores <= most), "{scores} scores");
        }
    }

    fn shape(&self, shares: &[Share]) -> BatchShape {
        let pages = |share: &Share| {
            let shift = if share.shifted { self.slots[share.slot as usize].verified } else { 0 };
            (share.computed + shift + share.rows()).div_ceil(self.limits.page_size)
        };
        let rows = shares.iter().map(Share::rows).sum();
        BatchShape::holding(rows, shares.len(), shares.iter().map(pages).max().unwrap_or(1))
    }

    fn scores(&self, shape: BatchShape) -> usize {
        shape.tokens * shape.sequences * shape.pages * self.limits.page_size
    }

    /// Whoever holds a page together holds it for the same tokens, and by the same salt.
    fn check_pages(&self) {
        let page_size = self.limits.page_size;
        let mut holders: HashMap<u32, (usize, SequenceId)> = HashMap::new();
        for (id, truth) in &self.truths {
            let sequence = self.scheduler.sequence(*id).expect("a sequence that is there");
            assert_eq!(sequence.tokens[..], truth.tokens[..truth.known], "tokens of {id:?}");
            for (index, page) in sequence.pages.iter().enumerate() {
                let Some((place, other)) = holders.insert(*page, (index, *id)) else { continue };
                assert_eq!(place, index, "page {page} at two places");
                let other = &self.truths[&other];
                let end = (index + 1) * page_size;
                assert!(end <= truth.known && end <= other.known, "page {page} is not full");
                assert_eq!(truth.tokens[..end], other.tokens[..end], "page {page}");
                assert_eq!(truth.salt, other.salt, "salt of page {page}");
            }
        }
    }
}
