//! How many drafts pay off: measured acceptance against measured cost of steps.
//!
//! Depth `k` gives `1 + p1 + p1 p2 + … + p1 … pk` tokens a step, `pj` being the share of drafts at
//! place `j` that are accepted where all before were. It is worth its while when that, by the
//! seconds of a step, is more than one token by the seconds of a step without a draft layer. Those
//! seconds depend on how many sequences there are, so they are kept for each power of two of them.
//!
//! What is not known has to be tried, and trying costs. So each trial has an allowance of a few
//! steps, trials that came to nothing are repeated at intervals that double, and what they cost is
//! held below a hundredth of the time. There is no clock here: seconds come as numbers.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use crate::config::DraftChoice;
use crate::step::StepPlan;

/// Most drafts in a step.
const MOST: usize = DraftChoice::MOST;
/// Steps of a kind after which their seconds are known well enough.
const SAMPLES: usize = 3;
/// Steps of a kind that are remembered.
const WINDOW: usize = 7;
/// Drafts at a place after which their acceptance is known well enough.
const DRAFTS: f64 = 8.0;
/// What is left of the weight of a draft once the next one of its place is verified.
const MEMORY: f64 = 0.99;
/// Steps from a trial to the next one at first, and at last.
const INTERVALS: (u64, u64) = (512, 1 << 16);
/// What a trial may cost, in steps without drafts. The first step of a shape may take very long,
/// but does so only once: no step counts for more than two.
const ALLOWANCE: f64 = 6.0;
/// The same while drafts seem to pay.
const PATIENCE: f64 = 18.0;
/// Share of the time that trials may have cost for another one to begin.
const BUDGET: f64 = 0.01;
/// What drafts have to bring, by the seconds of steps that only decode. They cost beside that: the
/// draft layer computes prompts too, and trials take time.
const GAIN: f64 = 1.05;
/// What a draft more has to bring.
const STEP: f64 = 1.01;

/// What a step took and brought.
#[derive(Debug, Clone, Copy, PartialEq)]
struct StepCost {
    /// Sequences for which a token was chosen.
    sequences: usize,
    /// Those of them that keep the draft layer's cache.
    drafting: usize,
    /// Rows of the step.
    rows: usize,
    /// Rows of drafts.
    drafts: usize,
    /// Drafts proposed for each of `drafting`.
    proposed: usize,
    seconds: f64,
    /// Tokens that were chosen.
    tokens: usize,
}

impl StepCost {
    /// The step of `plan`, which took `seconds` and brought `tokens`.
    fn new(plan: &StepPlan, tokens: usize, seconds: f64) -> Self {
        let sampled = || plan.shares.iter().filter(|share| share.sample);
        StepCost {
            sequences: sampled().count(),
            drafting: sampled().filter(|share| share.drafting).count(),
            rows: plan.rows(),
            drafts: plan.shares.iter().map(|share| share.drafts).sum(),
            proposed: plan.propose,
            seconds,
            tokens,
        }
    }

    /// What kind of step it is: `Some` when all sequences do the same, with as many drafts verified
    /// as proposed, and no prompt is computed beside.
    fn kind(&self) -> Option<Kind> {
        let alone = self.sequences > 0 && self.rows == self.sequences + self.drafts;
        match self.drafting {
            0 => alone.then_some(Kind::Off),
            _ => (alone
                && self.drafting == self.sequences
                && self.drafts == self.sequences * self.proposed
                && self.proposed <= MOST)
                .then_some(Kind::Depth(self.proposed)),
        }
    }
}

/// Steps whose seconds can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Without the draft layer.
    Off,
    /// With its cache and this many drafts, perhaps none.
    Depth(usize),
}

/// What the next step does about drafts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Propose so many, perhaps none, and keep the draft layer's cache.
    Drafts(usize),
    /// They do not pay: no sequence needs to keep the cache any more.
    Stop,
}

/// Chooses the depth of drafts: `--drafts auto`.
#[derive(Debug)]
pub(crate) struct DraftPolicy {
    /// Share of a step with the draft layer's cache that goes into it.
    layer_share: f64,
    /// By the power of two of sequences.
    sizes: Vec<Costs>,
    /// Drafts verified and accepted by place, the older ones weighing less.
    verified: [f64; MOST],
    accepted: [f64; MOST],
    steps: u64,
    /// The step since which sequences no longer keep the cache.
    stopped: Option<u64>,
    /// Steps from there to the next trial.
    interval: u64,
    /// When costs are measured anew while drafts pay, and the steps from there to the next time.
    refresh: (u64, u64),
    /// How much longer all took since the trial began than it would have without drafts, in steps.
    trial: f64,
    /// Seconds in all, and how many of them would not have been spent without drafts.
    seconds: f64,
    excess: f64,
}

impl DraftPolicy {
    /// A policy for a model with `layers` layers besides the draft layer.
    pub(crate) fn new(layers: usize) -> Self {
        DraftPolicy {
            layer_share: 1.0 / (layers + 1) as f64,
            sizes: Vec::new(),
            verified: [0.0; MOST],
            accepted: [0.0; MOST],
            steps: 0,
            stopped: None,
            interval: INTERVALS.0,
            refresh: (INTERVALS.0, INTERVALS.0),
            trial: 0.0,
            seconds: 0.0,
            excess: 0.0,
        }
    }

    /// Whether a sequence that is added now keeps the draft layer's cache.
    pub(crate) fn admit(&mut self) -> bool {
        let Some(stopped) = self.stopped else { return true };
        if self.steps < stopped + self.interval || self.excess > BUDGET * self.seconds {
            return false;
        }
        self.stopped = None;
        self.interval = (2 * self.interval).min(INTERVALS.1);
        self.trial = 0.0;
        for costs in &mut self.sizes {
            costs.depths = Default::default();
        }
        (0..MOST).for_each(|place| self.doubt(place));
        true
    }

    /// What the next step does, given how many sequences it has.
    pub(crate) fn choose(&mut self, sequences: usize) -> Depth {
        if self.stopped.is_some() {
            return Depth::Stop;
        }
        let size = self.size(sequences);
        let Some(off) = self.sizes[size].off(self.layer_share) else { return Depth::Drafts(0) };
        let best = self.best(&self.sizes[size], off);
        if self.trial > if best > 0 { PATIENCE } else { ALLOWANCE } {
            return self.stop();
        }
        if best > 0 {
            self.interval = INTERVALS.0;
            let (due, interval) = self.refresh;
            if self.steps >= due {
                let interval = (2 * interval).min(INTERVALS.1);
                self.refresh = (self.steps + interval, interval);
                let costs = &mut self.sizes[size];
                costs.off = Seconds::default();
                costs.depths[0] = Seconds::default();
                if best < MOST {
                    costs.depths[best + 1] = Seconds::default();
                    self.doubt(best);
                }
                return Depth::Drafts(0);
            }
        }
        let costs = &self.sizes[size];
        if let Some(next) = (1..=MOST).find(|depth| !self.is_known(costs, *depth))
            && self.may_pay(costs, off, next)
        {
            return Depth::Drafts(next);
        }
        match best {
            0 => self.stop(),
            depth => Depth::Drafts(depth),
        }
    }

    /// Takes note of a step, which took `seconds` and brought `tokens`. To be called for each.
    pub(crate) fn step(&mut self, plan: &StepPlan, tokens: usize, seconds: f64) {
        self.note(&StepCost::new(plan, tokens, seconds));
    }

    fn note(&mut self, cost: &StepCost) {
        self.steps += 1;
        let size = self.size(cost.sequences);
        match cost.kind() {
            Some(Kind::Off) => self.sizes[size].off.push(cost.seconds),
            Some(Kind::Depth(depth)) => self.sizes[size].depths[depth].push(cost.seconds),
            None => {}
        }
        if cost.sequences == 0 || cost.rows != cost.sequences + cost.drafts {
            return;
        }
        self.seconds += cost.seconds;
        if let Some(off) = self.sizes[size].off(self.layer_share)
            && cost.drafting > 0
        {
            let took = cost.seconds.min(2.0 * off);
            let excess = took - off * cost.tokens as f64 / cost.sequences as f64;
            // What was won is not there to be lost.
            self.excess = (self.excess + excess).max(0.0);
            self.trial = (self.trial + excess / off).max(0.0);
        }
    }

    /// Takes note of what came of the drafts of one sequence in one step.
    pub(crate) fn verified(&mut self, drafts: usize, accepted: usize) {
        for place in 0..drafts.min(MOST).min(accepted + 1) {
            self.verified[place] = self.verified[place] * MEMORY + 1.0;
            let right = if place < accepted { 1.0 } else { 0.0 };
            self.accepted[place] = self.accepted[place] * MEMORY + right;
        }
    }

    /// Drafts do not pay.
    fn stop(&mut self) -> Depth {
        self.stopped = Some(self.steps);
        self.refresh = (self.steps + INTERVALS.0, INTERVALS.0);
        Depth::Stop
    }

    /// Gives what is known of a place less weight than a new trial has.
    fn doubt(&mut self, place: usize) {
        let most = DRAFTS / 2.0;
        if self.verified[place] > most {
            self.accepted[place] *= most / self.verified[place];
            self.verified[place] = most;
        }
    }

    /// The best of the depths whose seconds are known.
    fn best(&self, costs: &Costs, off: f64) -> usize {
        let mut best = (0, GAIN / off);
        for depth in 1..=MOST {
            if !self.is_known(costs, depth) {
                break;
            }
            let Some(seconds) = costs.depths[depth].typical() else { break };
            let speed = self.tokens(depth, 0.0) / seconds;
            let least = if best.0 == 0 { best.1 } else { STEP * best.1 };
            if speed > least {
                best = (depth, speed);
            }
        }
        best.0
    }

    fn is_known(&self, costs: &Costs, depth: usize) -> bool {
        costs.depths[depth].len >= SAMPLES && self.verified[depth - 1] >= DRAFTS
    }

    /// Whether `depth` is worth trying: it would be better than the one before it, and it or a
    /// deeper one better than none, if drafts were accepted as often as what is known of them
    /// admits. What the draft layer takes in any case may only pay at a deeper one.
    fn may_pay(&self, costs: &Costs, off: f64, depth: usize) -> bool {
        let idle = costs.depths[0].typical().unwrap_or(off / (1.0 - self.layer_share));
        let tried = |depth: usize| {
            let seconds = &costs.depths[depth];
            (seconds.len > 1).then(|| seconds.typical()).flatten()
        };
        let before = if depth == 1 { idle } else { tried(depth - 1).unwrap_or(idle) };
        // Until it was tried twice, one more draft takes no time.
        let seconds = tried(depth).unwrap_or(before);
        let draft = (seconds - idle).max(0.0) / depth as f64;
        let deeper = (depth..=MOST).any(|deeper| {
            let seconds = seconds + draft * (deeper - depth) as f64;
            self.tokens(deeper, 1.0) / seconds > STEP / off
        });
        deeper && self.tokens(depth, 1.0) / seconds > self.tokens(depth - 1, 0.0) / before
    }

    /// Tokens of a step with `depth` drafts; `hope` is added to the accepted ones of the last place.
    fn tokens(&self, depth: usize, hope: f64) -> f64 {
        let (mut reached, mut tokens, mut rate) = (1.0, 1.0, 0.5);
        for place in 0..depth {
            let hope = if place + 1 == depth { hope } else { 0.0 };
            // Of what is not known, it is supposed to be as at the place before.
            rate = (self.accepted[place] + 2.0 * rate + hope) / (self.verified[place] + 2.0);
            rate = rate.min(1.0);
            reached *= rate;
            tokens += reached;
        }
        tokens
    }

    fn size(&mut self, sequences: usize) -> usize {
        let size = sequences.max(1).next_power_of_two().ilog2() as usize;
        if self.sizes.len() <= size {
            self.sizes.resize(size + 1, Costs::default());
        }
        size
    }
}

/// Seconds of steps with about the same number of sequences.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    off: Seconds,
    /// By depth, with the draft layer's cache.
    depths: [Seconds; MOST + 1],
}

impl Costs {
    /// Seconds of a step without the draft layer; by those with its cache and no drafts where there
    /// was none.
    fn off(&self, layer_share: f64) -> Option<f64> {
        let idle = &self.depths[0];
        if self.off.len >= SAMPLES {
            return self.off.typical();
        }
        (idle.len >= SAMPLES).then(|| idle.typical()).flatten().map(|it| it * (1.0 - layer_share))
    }
}

/// The last few measurements of something.
#[derive(Debug, Clone, Copy, Default)]
struct Seconds {
    last: [f64; WINDOW],
    len: usize,
    next: usize,
}

impl Seconds {
    fn push(&mut self, seconds: f64) {
        self.last[self.next] = seconds;
        self.next = (self.next + 1) % WINDOW;
        self.len = (self.len + 1).min(WINDOW);
    }

    /// What a few steps that took much longer do not move: the median, of few measurements the
    /// least.
    fn typical(&self) -> Option<f64> {
        let mut sorted = self.last;
        let sorted = &mut sorted[..self.len];
        sorted.sort_by(f64::total_cmp);
        let place = if self.len < SAMPLES { 0 } else { self.len / 2 };
        sorted.get(place).copied()
    }
}
