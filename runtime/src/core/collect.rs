//! What comes of a step: ids to commit, events to emit, answers that end.

use std::time::Instant;

use super::answer::Next;
use super::{Core, Group, InFlight};
use crate::config::DraftChoice;
use crate::error::Failure;
use crate::request::{Event, Finish};
use crate::stats::Pages;
use crate::step::{Executor, SequenceId};

impl<E: Executor> Core<E> {
    pub(super) fn collect(&mut self) {
        let started = Instant::now();
        let InFlight { plan, launched } = self.in_flight.pop_front().expect("a step in flight");
        let result = self.executor.collect();
        let now = Instant::now();
        self.stats.seconds.wait += (now - started).as_secs_f64();
        self.stats.recording = result.recording.clone();
        self.stats.seconds.forward += result.seconds.forward;
        self.stats.seconds.sampling += result.seconds.sampling;
        self.stats.seconds.drafting += result.seconds.drafting;
        if self.in_flight.is_empty() {
            self.idle_since = Some(now);
        }
        // Steps follow each other: this one began when the one before it was done.
        let began = self.last_collect.map_or(launched, |last| last.max(launched));
        self.last_collect = Some(now);
        self.stats.count_step(plan.shares.iter().map(|share| {
            let sampled = if share.sample { 1 + share.drafts } else { 0 };
            (share.rows(), sampled, share.computed)
        }));

        let mut gained = 0;
        let mut events = Vec::new();
        for (share, result) in plan.shares.iter().zip(result.shares) {
            let id = share.sequence.expect("a sequence");
            // It may have ended, or been cancelled, while the step was in flight.
            let Some(answer) = self.answers.get_mut(&id) else {
                self.stats.surplus_tokens += result.tokens.len() as u64;
                continue;
            };
            answer.collected_logprobs.extend_from_slice(&result.prompt_logprobs);
            if share.computed < answer.prompt.len() {
                let total = answer.prompt.len();
                let computed = (share.computed + share.tokens.len()).min(total);
                self.stats.prompt_tokens += (computed - share.computed) as u64;
                if answer.choice == 0 && !share.sample {
                    events.push(Event::Prompt { computed, total });
                }
            }
            let mut next = Next::Goes;
            if share.sample {
                let accepted = result.tokens.len().saturating_sub(1);
                self.policy.verified(share.drafts, accepted);
                for place in 0..share.drafts.min(DraftChoice::MOST) {
                    self.stats.drafted[place] += 1;
                    self.stats.accepted[place] += u64::from(place < accepted);
                }
                answer.timings.drafted_tokens += share.drafts;
                self.scheduler.commit(id, &result.tokens);
                let sampled = result.tokens.len();
                let taken;
                (taken, next) = answer.take(result, self.config.dtype, now, &mut events);
                answer.timings.accepted_tokens += accepted.min(taken);
                self.stats.output_tokens += taken as u64;
                self.stats.surplus_tokens += (sampled - taken) as u64;
                gained += sampled;
                let waits = answer.constraints.waits(&answer.output_ids);
                self.scheduler.set_waits(id, waits);
            }
            if let Some(group) = self.groups.get(&answer.group) {
                self.outbox.extend(events.drain(..).map(|event| (group.sender.clone(), event)));
            }
            match next {
                Next::Goes => {}
                Next::Finished { finish, stop_token } => self.finish(id, finish, stop_token, now),
                Next::Failed(failure) => self.fail(id, failure),
            }
        }
        self.policy.step(&plan, gained, (now - began).as_secs_f64());
        self.send();
        self.stats.seconds.emit += now.elapsed().as_secs_f64();
    }

    /// Sends what waits to be sent. Who sees the end of an answer sees it in the counters too.
    pub(super) fn send(&mut self) {
        self.publish();
        for (sender, event) in self.outbox.drain(..) {
            // Whether there is somebody to receive it is asked in the next turn.
            sender.send(event);
        }
    }

    /// Ends what nobody waits for any more, and what is past its time.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let gone = self.groups.iter().filter(|(_, group)| group.sender.is_gone());
        for group in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cancel(group);
        }
        let late = |group: &&Group| group.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<_> =
            self.groups.values().filter(late).flat_map(|group| group.open.clone()).collect();
        for id in late {
            self.finish(id, Finish::Deadline, None, now);
        }
        if !self.outbox.is_empty() {
            self.send();
        }
    }

    pub(super) fn finish(
        &mut self,
        id: SequenceId,
        finish: Finish,
        stop_token: Option<u32>,
        now: Instant,
    ) {
        let cached = self.scheduler.sequence(id).and_then(|sequence| sequence.cached).unwrap_or(0);
        self.scheduler.remove(id);
        let Some(mut answer) = self.answers.remove(&id) else { return };
        answer.timings.cached_tokens = cached;
        self.stats.cached_tokens += cached as u64;
        self.stats.finished += 1;
        let event = answer.finished(finish, stop_token, now);
        if let Some(group) = self.groups.get_mut(&answer.group) {
            self.outbox.push((group.sender.clone(), event));
            group.open.retain(|open| *open != id);
            if group.open.is_empty() {
                self.groups.remove(&answer.group);
            }
        }
    }

    /// Ends all answers of a sequence's request with an error.
    pub(super) fn fail(&mut self, id: SequenceId, failure: Failure) {
        let Some(answer) = self.answers.get(&id) else { return };
        let Some(group) = self.groups.remove(&answer.group) else { return };
        self.stats.failed += group.open.len() as u64;
        for id in &group.open {
            self.scheduler.remove(*id);
            self.answers.remove(id);
        }
        self.outbox.push((group.sender, Event::Failed(failure)));
    }

    pub(super) fn cancel(&mut self, group: u64) {
        let Some(group) = self.groups.remove(&group) else { return };
        self.stats.cancelled += group.open.len() as u64;
        for id in group.open {
            self.scheduler.remove(id);
            self.answers.remove(&id);
        }
    }

    /// Ends everything with an error; touches neither scheduler nor executor, which may be broken.
    pub(super) fn fail_all(&mut self, failure: &Failure) {
        self.in_flight.clear();
        self.answers.clear();
        for (sender, event) in self.outbox.drain(..) {
            sender.send(event);
        }
        for (_, group) in self.groups.drain() {
            self.stats.failed += group.open.len() as u64;
            group.sender.send(Event::Failed(failure.clone()));
        }
        self.idle_since = None;
        self.last_collect = None;
    }

    /// Lets other threads see the counters.
    pub(super) fn publish(&mut self) {
        let counts = self.scheduler.counts();
        self.stats.running = counts.running;
        self.stats.waiting = counts.waiting;
        self.stats.preemptions = counts.preemptions;
        self.stats.pages = Pages {
            total: counts.total_pages,
            free: counts.free_pages,
            held: counts.held_pages,
            cached: counts.cached_pages,
        };
        let mut shared = self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.clone_from(&self.stats);
    }
}
