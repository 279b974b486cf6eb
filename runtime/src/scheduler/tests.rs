//! What the scheduler promises, on the simulated device.

use proptest::prelude::*;

use super::Limits;
use super::simulation::{Ask, World, mix, token};
use crate::step::{SequenceId, Share};

const ROOMY: Limits = Limits {
    page_size: 4,
    pages: 400,
    max_batch: 8,
    step_tokens: 64,
    prefill_chunk: 16,
    context_length: 300,
    max_scores: None,
    prefix_cache: true,
    deterministic: false,
};

/// A prompt whose first `common` tokens others of the same family have too.
fn prompt(family: u64, common: usize, own: u64, length: usize) -> Vec<u32> {
    let common = (0..common).map(|place| token(mix(family, place as u64)));
    let own = (0..length).map(|place| token(mix(mix(99, own), place as u64)));
    common.chain(own).collect()
}

fn ask(length: usize, answer: usize) -> Ask {
    Ask { prompt: prompt(1, 0, length as u64, length), answer, ..Ask::default() }
}

#[derive(Debug, Clone)]
enum Op {
    Add(Ask),
    Steps(usize, usize),
    Drain,
    Cancel(usize),
    Waits(usize, bool),
}

fn limits() -> impl Strategy<Value = Limits> {
    let scores = prop_oneof![2 => Just(None), 1 => (64usize..4096).prop_map(Some)];
    (1usize..=4, 6usize..48, 1usize..7, 1usize..13, 0usize..30, scores, any::<bool>(), 0..4)
        .prop_map(
            |(page_size, pages, max_batch, prefill_chunk, more, max_scores, prefix_cache, mode)| {
                Limits {
                    page_size,
                    pages,
                    max_batch,
                    step_tokens: prefill_chunk + more,
                    prefill_chunk,
                    context_length: 70,
                    max_scores,
                    prefix_cache,
                    deterministic: mode == 0,
                }
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let flags = (any::<bool>(), any::<bool>(), 0..8, 0..8);
    let add = (0u64..3, 0usize..24, 1usize..20, 1usize..30, -1..3, 1usize..4, flags).prop_map(
        |(family, common, length, answer, priority, n, (drafting, more, logits, waits))| {
            Op::Add(Ask {
                prompt: prompt(family, common, length as u64 + 31 * answer as u64, length),
                answer,
                priority,
                salt: u64::from(logits == 1),
                drafting,
                logits_of_prompt: logits == 0,
                waits: waits == 0,
                n: if more { n } else { 1 },
            })
        },
    );
    prop_oneof![
        4 => add,
        14 => (1usize..6, 0usize..5).prop_map(|(count, propose)| Op::Steps(count, propose)),
        1 => Just(Op::Drain),
        2 => any::<usize>().prop_map(Op::Cancel),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, waits)| Op::Waits(which, waits)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// 10,000 operations in all: each row is computed from the right rows, pages and slots add up
    /// after each of them, a step holds what it may, and everyone gets the one true answer.
    #[test]
    fn every_sequence_gets_its_answer_whatever_happens_around_it(
        limits in limits(),
        skill in 0u64..=100,
        ops in prop::collection::vec(op(), 100),
    ) {
        let mut world = World::new(limits);
        world.skill = skill;
        world.ends = true;
        for op in ops {
            match op {
                Op::Add(ask) => {
                    world.add(&ask);
                }
                Op::Steps(count, propose) => (0..count).for_each(|_| drop(world.step(propose))),
                Op::Drain => world.drain(),
                Op::Cancel(which) => world.pick(which).into_iter().for_each(|id| world.cancel(id)),
                Op::Waits(which, waits) => {
                    world.pick(which).into_iter().for_each(|id| world.scheduler.set_waits(id, waits));
                }
            }
        }
        world.finish(3);
    }
}

#[test]
fn a_prompt_is_computed_in_chunks_and_an_answer_token_by_token() {
    let mut world = World::new(ROOMY);
    let id = world.add(&ask(40, 4)).unwrap();
    let plans: Vec<_> = (0..6).map(|_| world.step(0)).collect();
    let rows: Vec<_> = plans.iter().map(|plan| plan.rows()).collect();
    assert_eq!(rows, [16, 16, 8, 1, 1, 1]);
    let share = &plans[3].shares[0];
    assert_eq!((share.fed, share.computed, share.shifted), (true, 40, false));
    assert!(plans[2].shares[0].sample && !plans[1].shares[0].sample);
    assert_eq!(share.sequence, Some(id));
}

#[test]
fn drafts_are_verified_one_step_after_they_were_proposed() {
    let mut world = World::new(ROOMY);
    world.skill = 100;
    world.add(&Ask { drafting: true, ..ask(5, 200) });
    let drafts: Vec<_> = [3, 2, 0, 4, 4].map(|propose| world.step(propose).shares[0].drafts).into();
    assert_eq!(drafts, [0, 3, 2, 0, 4]);
}

#[test]
fn a_long_prompt_does_not_stall_answers() {
    let mut world = World::new(ROOMY);
    let ids: Vec<_> = (0..7).map(|i| world.add(&ask(3 + i, 200)).unwrap()).collect();
    (0..3).for_each(|_| drop(world.step(0)));
    let long = world.add(&ask(250, 3)).unwrap();
    for _ in 0..16 {
        let plan = world.step(0);
        let has = |id: &SequenceId| plan.shares.iter().any(|share| share.sequence == Some(*id));
        assert!(ids.iter().filter(|id| world.truths.contains_key(id)).all(has));
        assert!(has(&long) && plan.rows() <= 7 + 16);
    }
    // Nor do their drafts: they are only as many as leave a row for each.
    let limits = Limits { step_tokens: 16, ..ROOMY };
    let mut world = World::new(limits);
    (0..8).for_each(|i| {
        world.add(&Ask { drafting: true, ..ask(2 + i, 200) });
    });
    (0..9).for_each(|_| drop(world.step(4)));
    let plan = world.step(4);
    assert_eq!((plan.shares.len(), plan.rows()), (8, 16));
}

#[test]
fn equal_beginnings_are_computed_once() {
    let cached = |prefix_cache, second: Ask| {
        let mut world = World::new(Limits { prefix_cache, ..ROOMY });
        world.add(&Ask { drafting: true, ..ask(50, 3) });
        world.finish(0);
        let id = world.add(&second).unwrap();
        world.step(0);
        world.scheduler.sequence(id).and_then(|sequence| sequence.cached)
    };
    assert_eq!(cached(true, ask(50, 3)), Some(48));
    assert_eq!(cached(true, Ask { drafting: true, ..ask(50, 3) }), Some(48));
    assert_eq!(cached(false, ask(50, 3)), Some(0));
    assert_eq!(cached(true, Ask { salt: 1, ..ask(50, 3) }), Some(0));
    assert_eq!(cached(true, Ask { logits_of_prompt: true, ..ask(50, 3) }), Some(0));
    assert_eq!(cached(true, ask(51, 3)), Some(0));
    // One row is left to compute.
    let mut world = World::new(ROOMY);
    world.add(&ask(48, 3));
    world.finish(0);
    let id = world.add(&ask(48, 3)).unwrap();
    assert_eq!(world.step(0).shares[0].tokens.len(), 4);
    assert_eq!(world.scheduler.sequence(id).unwrap().cached, Some(44));
}

#[test]
fn answers_to_one_prompt_share_its_pages_without_a_prefix_cache_too() {
    for prefix_cache in [true, false] {
        let mut world = World::new(Limits { prefix_cache, ..ROOMY });
        world.add(&Ask { n: 4, ..ask(50, 20) });
        let rows: Vec<_> = (0..4).map(|_| world.step(0).rows()).collect();
        assert_eq!(rows, [16, 16, 16, 2]);
        // 48 rows are shared, two computed by each of the other three.
        assert_eq!(world.step(0).rows(), 1 + 3 * 2);
        assert_eq!(world.scheduler.counts().held_pages, 12 + 4);
        world.finish(0);
        assert_eq!(world.finished, 4);
    }
}

#[test]
fn the_newest_of_the_lowest_priority_stops_for_others() {
    // Pages for 40 rows, and three sequences that want 20 each.
    let limits = Limits { pages: 11, prefix_cache: false, ..ROOMY };
    let mut world = World::new(limits);
    let low = world.add(&Ask { priority: -1, ..ask(8, 12) }).unwrap();
    let old = world.add(&ask(9, 12)).unwrap();
    let new = world.add(&ask(10, 12)).unwrap();
    let mut stopped = Vec::new();
    for _ in 0..14 {
        world.step(0);
        for id in [low, old, new] {
            let waits = world.scheduler.sequence(id).is_some_and(|it| it.slot.is_none());
            if waits && !stopped.contains(&id) {
                stopped.push(id);
            }
        }
    }
    assert!(!stopped.contains(&old));
    assert_eq!(stopped.first(), Some(&low));
    world.finish(0);
    assert_eq!(world.finished, 3);
}

#[test]
fn a_higher_priority_takes_the_pages_of_a_lower_one() {
    let limits = Limits { pages: 11, prefix_cache: false, ..ROOMY };
    let mut world = World::new(limits);
    let low = world.add(&ask(30, 9)).unwrap();
    world.step(0);
    let equal = world.add(&ask(20, 9)).unwrap();
    world.step(0);
    assert_eq!(world.scheduler.counts().preemptions, 0);
    let high = world.add(&Ask { priority: 1, ..ask(21, 9) }).unwrap();
    world.step(0);
    let runs = |id| world.scheduler.sequence(id).unwrap().slot.is_some();
    assert!(runs(high) && !runs(low) && !runs(equal));
    world.finish(0);
    assert_eq!(world.finished, 3);
}

#[test]
fn nobody_starves_behind_higher_priorities() {
    let mut world = World::new(Limits { max_batch: 1, ..ROOMY });
    let low = world.add(&ask(5, 5)).unwrap();
    // There is always one of a higher priority, and one more than can run.
    for round in 0.. {
        assert!(round < 300, "starved");
        while world.truths.len() < 3 {
            world.add(&Ask { priority: 1, ..ask(6, 3) });
        }
        world.step(0);
        if !world.truths.contains_key(&low) {
            break;
        }
    }
}

#[test]
fn who_waits_is_scheduled_when_its_token_is_known() {
    let mut world = World::new(ROOMY);
    world.skill = 100;
    world.add(&Ask { waits: true, drafting: true, ..ask(5, 100) });
    let rows = [0; 6].map(|_| world.step(2).rows());
    assert_eq!(rows, [5, 0, 3, 0, 3, 0]);
    let plan = world.step(2);
    let Share { fed, shifted, computed, .. } = plan.shares[0];
    assert_eq!((fed, shifted, computed), (false, false, 5 + 3 + 3));
}

#[test]
fn fixed_chunks_depend_on_the_sequence_only() {
    let fixed = Limits { deterministic: true, prefill_chunk: 6, step_tokens: 30, ..ROOMY };
    let shares = |pages, others: u64| {
        let mut world = World::new(Limits { pages, ..fixed });
        let mut all = Vec::new();
        let id = world.add(&ask(27, 12)).unwrap();
        for other in 0..others {
            world.add(&Ask { prompt: prompt(1, 0, 27, 20 + other as usize), ..ask(1, 9) });
        }
        while world.truths.contains_key(&id) {
            world.step(3);
            if let Some(truth) = world.truths.get(&id) {
                all.clone_from(&truth.shares);
            }
        }
        (all, world.scheduler.counts().preemptions)
    };
    let (alone, _) = shares(60, 0);
    assert_eq!(alone[..6], [(0, 6), (6, 6), (12, 6), (18, 6), (24, 3), (27, 1)]);
    assert!(alone[5..].iter().enumerate().all(|(place, share)| *share == (27 + place, 1)));
    for others in 0..6 {
        for pages in [11, 14, 20, 60] {
            let (all, _) = shares(pages, others);
            for share in all {
                assert!(alone.contains(&share), "{share:?} beside {others}, {pages} pages");
            }
        }
    }
}

#[test]
fn a_fixed_prefix_hit_ends_where_chunks_do() {
    let limits = Limits { deterministic: true, prefill_chunk: 6, ..ROOMY };
    let mut world = World::new(limits);
    world.add(&ask(50, 9));
    world.finish(0);
    let id = world.add(&ask(50, 3)).unwrap();
    world.step(0);
    // Whole chunks of 6 and whole pages of 4.
    assert_eq!(world.scheduler.sequence(id).unwrap().cached, Some(48));
    let mut longer = ask(50, 9);
    longer.prompt.truncate(47);
    let id = world.add(&longer).unwrap();
    world.step(0);
    assert_eq!(world.scheduler.sequence(id).unwrap().cached, Some(36));
}

#[test]
fn what_was_computed_before_a_preemption_may_still_be_cached() {
    let limits = Limits { pages: 12, ..ROOMY };
    let mut world = World::new(limits);
    world.add(&ask(16, 25));
    let new = world.add(&ask(17, 20)).unwrap();
    let mut again = None;
    while world.truths.contains_key(&new) {
        let plan = world.step(0);
        let share = plan.shares.iter().find(|share| share.sequence == Some(new));
        if world.scheduler.counts().preemptions > 0 && again.is_none() {
            again = share.map(|share| share.computed);
        }
    }
    assert!(again.is_some_and(|computed| computed > 0), "{again:?}");
    world.finish(0);
}

#[test]
fn what_never_fits_is_told() {
    let world = World::new(Limits { pages: 5, context_length: 300, ..ROOMY });
    assert!(world.scheduler.fits(16) && !world.scheduler.fits(17));
    let world = World::new(Limits { context_length: 30, ..ROOMY });
    assert!(world.scheduler.fits(30) && !world.scheduler.fits(31));
}
