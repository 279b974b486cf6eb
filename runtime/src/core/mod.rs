//! The engine's thread: schedule, launch, collect, commit, emit.

mod admit;
mod answer;
mod collect;
mod constraints;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::config::{DraftChoice, OnPanic};
use crate::draft::{Depth, DraftPolicy};
use crate::error::Failure;
use crate::handoff::{Mailbox, StreamSender};
use crate::request::Event;
use crate::scheduler::Scheduler;
use crate::stats::Stats;
use crate::step::{Executor, SequenceId, SlotState, StepPlan};
use crate::text::Tokenizer;
pub(crate) use admit::Submission;
use answer::Answer;
pub(crate) use constraints::panic_message;

/// What other threads ask of the engine's.
pub(crate) enum Command<E> {
    /// Answer a request that was checked.
    Submit(Box<Submission>),
    /// Something to do between two steps, with a reply of its own.
    Job(Box<dyn FnOnce(&mut E) + Send>),
    /// Fail what is in flight and end.
    ShutDown,
}

/// What the core is told of model and engine.
#[derive(Debug)]
pub(crate) struct CoreConfig {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) dtype: &'static str,
    pub(crate) drafts: DraftChoice,
    /// A layer for drafts was loaded.
    pub(crate) can_draft: bool,
    /// Layers besides it.
    pub(crate) layers: usize,
    /// Steps that are launched before the oldest of them is collected, 1 or 2.
    pub(crate) steps_in_flight: usize,
    pub(crate) on_panic: OnPanic,
}

/// Everything that the engine's thread owns.
pub(crate) struct Core<E> {
    executor: E,
    scheduler: Scheduler,
    new_scheduler: Box<dyn Fn() -> Scheduler + Send>,
    policy: DraftPolicy,
    mailbox: Mailbox<Command<E>, String>,
    answers: HashMap<SequenceId, Answer>,
    groups: HashMap<u64, Group>,
    in_flight: VecDeque<InFlight>,
    /// Events that go out once the counters are up to date.
    outbox: Vec<(Arc<StreamSender<Event>>, Event)>,
    next_id: u64,
    shared: Arc<Mutex<Stats>>,
    stats: Stats,
    /// When the device last ran out of work, while there was some to be launched.
    idle_since: Option<Instant>,
    last_collect: Option<Instant>,
    config: CoreConfig,
}

/// The answers to one request.
struct Group {
    sender: Arc<StreamSender<Event>>,
    open: Vec<SequenceId>,
    deadline: Option<Instant>,
}

/// A step that was launched and not collected.
struct InFlight {
    plan: StepPlan,
    launched: Instant,
}

impl<E: Executor> Core<E> {
    pub(crate) fn new(
        executor: E,
        new_scheduler: Box<dyn Fn() -> Scheduler + Send>,
        mailbox: Mailbox<Command<E>, String>,
        shared: Arc<Mutex<Stats>>,
        config: CoreConfig,
    ) -> Self {
        Core {
            executor,
            scheduler: new_scheduler(),
            new_scheduler,
            policy: DraftPolicy::new(config.layers),
            mailbox,
            answers: HashMap::new(),
            groups: HashMap::new(),
            in_flight: VecDeque::new(),
            outbox: Vec::new(),
            next_id: 0,
            shared,
            stats: Stats::default(),
            idle_since: None,
            last_collect: None,
            config,
        }
    }

    /// Serves until the last handle is gone, or until a panic that `on_panic` makes the last.
    /// Returns why it cannot go on, in the second case.
    pub(crate) fn run(&mut self) -> Option<String> {
        loop {
            let panic = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
                Ok(()) => {
                    self.fail_all(&Failure::ShutDown);
                    return None;
                }
                Err(panic) => panic_message(&*panic),
            };
            self.fail_all(&Failure::Engine { reason: panic.clone() });
            if self.config.on_panic == OnPanic::Stop {
                return Some(panic);
            }
            let restarted = catch_unwind(AssertUnwindSafe(|| {
                self.executor.reset();
                self.scheduler = (self.new_scheduler)();
                self.policy = DraftPolicy::new(self.config.layers);
            }));
            if let Err(again) = restarted {
                return Some(format!("{panic}; restarting: {}", panic_message(&*again)));
            }
            self.stats.restarts += 1;
            self.publish();
        }
    }

    /// Fails what is queued and refuses what comes later.
    pub(crate) fn close(&mut self, reason: &str) {
        for command in self.mailbox.close(reason.to_owned()) {
            if let Command::Submit(submission) = command {
                submission.sender.send(Event::Failed(Failure::Engine { reason: reason.into() }));
            }
        }
    }

    fn serve(&mut self) {
        loop {
            let idle = self.answers.is_empty() && self.in_flight.is_empty();
            let commands = match idle {
                true => {
                    self.idle_since = None;
                    self.last_collect = None;
                    self.publish();
                    self.mailbox.wait()
                }
                false => Some(self.mailbox.take_now()),
            };
            let Some(commands) = commands else { return };
            if self.tick(commands).is_break() {
                return;
            }
        }
    }

    /// One turn: what was asked, then a step.
    fn tick(&mut self, commands: Vec<Command<E>>) -> ControlFlow<()> {
        for command in commands {
            match command {
                Command::Submit(submission) => self.admit(*submission),
                Command::Job(job) => job(&mut self.executor),
                Command::ShutDown => return ControlFlow::Break(()),
            }
        }
        self.sweep();
        self.step();
        ControlFlow::Continue(())
    }

    /// Launches a step where there is something to compute, and collects the oldest where enough
    /// are in flight.
    fn step(&mut self) {
        let started = Instant::now();
        let plan = self.plan();
        let planned = Instant::now();
        self.stats.seconds.schedule += (planned - started).as_secs_f64();
        let nothing = plan.shares.is_empty();
        if !nothing {
            if let Some(since) = self.idle_since.take() {
                self.stats.seconds.device_idle += (planned - since).as_secs_f64();
            }
            self.executor.launch(&plan);
            self.stats.seconds.launch += planned.elapsed().as_secs_f64();
            self.in_flight.push_back(InFlight { plan, launched: planned });
        }
        if self.in_flight.len() >= self.config.steps_in_flight
            || (nothing && !self.in_flight.is_empty())
        {
            self.collect();
        }
        if cfg!(debug_assertions) {
            self.scheduler.check();
        }
    }

    /// What the next step computes, with all that the answers ask of it.
    fn plan(&mut self) -> StepPlan {
        let propose = match self.config.drafts {
            _ if !self.config.can_draft => 0,
            DraftChoice::Fixed(drafts) => drafts,
            DraftChoice::Auto => match self.policy.choose(self.scheduler.counts().running) {
                Depth::Drafts(drafts) => drafts,
                Depth::Stop => {
                    self.scheduler.stop_drafting();
                    0
                }
            },
        };
        let mut plan = self.scheduler.schedule(propose);
        for (id, slot) in self.scheduler.opened() {
            let Some(answer) = self.answers.get_mut(&id) else { continue };
            answer.first_step.get_or_insert_with(Instant::now);
            let Answer { sampling, seed, prompt, output_ids, .. } = &*answer;
            let state = SlotState { sampling, seed: *seed, prompt, output: output_ids };
            self.executor.open(slot, &state);
        }
        let mut failed = Vec::new();
        for share in &mut plan.shares {
            let id = share.sequence.expect("a sequence");
            let answer = self.answers.get_mut(&id).expect("the answer of a sequence");
            let place = share.computed + share.tokens.len();
            share.output_index = place.saturating_sub(answer.prompt.len());
            share.logprobs = answer.logprobs;
            if place <= answer.prompt.len() {
                share.prompt_logprobs = answer.prompt_logprobs;
            }
            if !share.sample || !answer.constraints.waits(&answer.output_ids) {
                continue;
            }
            let drafts = answer.proposed.iter().copied().take(share.drafts).collect::<Vec<_>>();
            match answer.constraints.masks(&answer.output_ids, &drafts) {
                Ok(masks) => share.masks = masks,
                Err(reason) => failed.push((id, reason)),
            }
        }
        // A request whose mask failed is taken out before anything of it is computed.
        for (id, reason) in failed {
            plan.shares.retain(|share| share.sequence != Some(id));
            self.fail(id, Failure::Mask { reason });
        }
        plan
    }
}
