//! The policy against devices and models of known cost and acceptance.

use super::*;

/// What steps take, in those of one sequence without drafts, and how often drafts are right.
#[derive(Debug, Clone, Copy)]
struct World {
    sequences: usize,
    layers: usize,
    /// What each draft adds to a step.
    draft: f64,
    /// Share of the drafts that are right where all before were.
    acceptance: f64,
    /// Largest share by which a step may take longer.
    noise: f64,
    /// Every so many steps a new sequence takes the place of another.
    turnover: u64,
}

const WORLD: World =
    World { sequences: 1, layers: 40, draft: 0.1, acceptance: 0.8, noise: 0.0, turnover: 128 };

/// A run of the policy over a world that may change.
struct Run {
    policy: DraftPolicy,
    random: u64,
    /// Which sequences keep the cache.
    drafting: Vec<bool>,
    /// What the last step left to verify.
    proposed: usize,
    /// Choices that are on their way: a step is planned before the last one is read.
    planned: Option<StepCost>,
    depths: [usize; MOST + 1],
    steps: u64,
}

impl Run {
    fn new(world: World) -> Self {
        let mut policy = DraftPolicy::new(world.layers);
        let drafting = (0..world.sequences).map(|_| policy.admit()).collect();
        let (depths, planned) = ([0; MOST + 1], None);
        Run { policy, random: 1, drafting, proposed: 0, planned, depths, steps: 0 }
    }

    fn random(&mut self) -> f64 {
        // The usual constants of a linear congruential generator modulo 2^64.
        self.random =
            self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Seconds for a token of a sequence over `steps`.
    fn seconds_a_token(&mut self, world: World, steps: u64) -> f64 {
        let (mut seconds, mut tokens) = (0.0, 0);
        for _ in 0..steps {
            let cost = self.step(world);
            seconds += cost.seconds;
            tokens += cost.tokens;
        }
        seconds * world.sequences as f64 / tokens as f64
    }

    fn step(&mut self, world: World) -> StepCost {
        self.steps += 1;
        if self.steps.is_multiple_of(world.turnover) {
            let leaves = (self.steps / world.turnover) as usize % self.drafting.len();
            self.drafting[leaves] = self.policy.admit();
        }
        let propose = match self.policy.choose(world.sequences) {
            Depth::Drafts(drafts) => drafts,
            Depth::Stop => {
                self.drafting.fill(false);
                0
            }
        };
        let drafting = self.drafting.iter().filter(|drafting| **drafting).count();
        let verified = if drafting > 0 { self.proposed } else { 0 };
        let mut tokens = world.sequences;
        for _ in 0..drafting {
            let mut accepted = 0;
            while accepted < verified && self.random() < world.acceptance {
                accepted += 1;
            }
            tokens += accepted;
            self.policy.verified(verified, accepted);
        }
        let layer = if drafting > 0 { 1.0 / world.layers as f64 } else { 0.0 };
        let seconds = 1.0 + layer + world.draft * (verified + propose) as f64 / 2.0;
        let cost = StepCost {
            sequences: world.sequences,
            drafting,
            rows: world.sequences + drafting * verified,
            drafts: drafting * verified,
            proposed: propose,
            seconds: seconds * (1.0 + world.noise * self.random()),
            tokens,
        };
        self.depths[verified] += 1;
        self.proposed = propose;
        if let Some(cost) = self.planned.replace(cost) {
            self.policy.note(&cost);
        }
        cost
    }
}

/// Steps from 1,000 on in which each depth was verified.
fn settled(world: World) -> [usize; MOST + 1] {
    let mut run = Run::new(world);
    run.seconds_a_token(world, 1000);
    run.depths = [0; MOST + 1];
    run.seconds_a_token(world, 1000);
    run.depths
}

#[test]
fn good_drafts_are_taken_as_deep_as_they_pay() {
    let depths = settled(WORLD);
    assert!(depths[MOST] > 900, "{depths:?}");
    // 1.5 tokens for 1.3 steps, 1.75 for 1.6.
    let depths = settled(World { draft: 0.3, acceptance: 0.5, ..WORLD });
    assert!(depths[1] > 800, "{depths:?}");
    assert!(Run::new(WORLD).seconds_a_token(WORLD, 300) < 0.6);
}

#[test]
fn bad_drafts_cost_no_more_than_two_percent() {
    let bad = [
        World { acceptance: 0.0, ..WORLD },
        World { acceptance: 0.3, draft: 0.5, ..WORLD },
        // A draft layer that is a third of the model, as in the smallest test models.
        World { acceptance: 0.05, draft: 0.5, layers: 2, ..WORLD },
        World { acceptance: 0.5, draft: 0.6, layers: 2, ..WORLD },
        // A mixture of experts reads as many weights for two rows as for two sequences.
        World { acceptance: 0.7, draft: 0.9, sequences: 8, ..WORLD },
        World { acceptance: 0.0, draft: 0.5, sequences: 32, turnover: 10, ..WORLD },
    ];
    for world in bad {
        for noise in [0.0, 0.1] {
            let world = World { noise, ..world };
            let mut run = Run::new(world);
            let off = 1.0 + noise / 2.0;
            for steps in [400, 2000, 8000] {
                let took = run.seconds_a_token(world, steps) / off;
                assert!(took < 1.02, "{took} after {steps} of {world:?}");
            }
        }
    }
}

#[test]
fn whatever_the_cost_it_is_about_as_good_as_the_best_depth() {
    for layers in [2, 10, 40] {
        for draft in [0.05, 0.2, 0.4, 0.8] {
            for acceptance in [0.1, 0.3, 0.5, 0.7, 0.9] {
                let world = World { layers, draft, acceptance, noise: 0.05, ..WORLD };
                let cost = |depth: usize| {
                    let tokens: f64 = (0..=depth as i32).map(|place| acceptance.powi(place)).sum();
                    let layer = if depth > 0 { 1.0 / layers as f64 } else { 0.0 };
                    (1.0 + layer + draft * depth as f64) * 1.025 / tokens
                };
                let best = (0..=MOST).map(cost).fold(f64::MAX, f64::min);
                let took = Run::new(world).seconds_a_token(world, 4000);
                assert!(took < 1.1 * best, "{took}, wanted {best} in {world:?}");
                assert!(took < 1.02 * cost(0), "{took}, off {} in {world:?}", cost(0));
            }
        }
    }
}

#[test]
fn it_turns_when_the_text_does() {
    let (good, bad) = (WORLD, World { acceptance: 0.05, draft: 0.4, ..WORLD });
    let mut run = Run::new(good);
    assert!(run.seconds_a_token(good, 1000) < 0.6);
    assert!(run.seconds_a_token(bad, 1000) < 1.04);
    run.seconds_a_token(good, 3000);
    assert!(run.seconds_a_token(good, 1000) < 0.6);
}

#[test]
fn a_first_step_that_takes_long_decides_nothing() {
    let mut policy = DraftPolicy::new(40);
    assert!(policy.admit());
    let mut chosen = 0;
    for step in 0..200 {
        let Depth::Drafts(depth) = policy.choose(1) else { panic!("stopped in step {step}") };
        let first = depth != chosen;
        chosen = depth;
        let accepted = depth.min(step % 7);
        policy.verified(depth, accepted);
        policy.note(&StepCost {
            sequences: 1,
            drafting: 1,
            rows: 1 + depth,
            drafts: depth,
            proposed: depth,
            seconds: if first { 50.0 } else { 1.0 + 0.05 * depth as f64 },
            tokens: 1 + accepted,
        });
    }
    assert!(chosen > 1);
}

#[test]
fn prompts_beside_answers_say_nothing_about_depth() {
    let cost = StepCost {
        sequences: 2,
        drafting: 2,
        rows: 4,
        drafts: 2,
        proposed: 1,
        seconds: 1.0,
        tokens: 3,
    };
    assert_eq!(cost.kind(), Some(Kind::Depth(1)));
    assert_eq!(StepCost { rows: 20, ..cost }.kind(), None);
    assert_eq!(StepCost { proposed: 2, ..cost }.kind(), None);
    assert_eq!(StepCost { drafting: 1, ..cost }.kind(), None);
    assert_eq!(StepCost { drafting: 0, drafts: 0, rows: 2, ..cost }.kind(), Some(Kind::Off));
}
