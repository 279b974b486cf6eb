//! Whole answers are the same in any company, slot, with drafts and with what the host knows late.

use super::*;

const LENGTH: usize = 12;

/// Drafts after what is there: none, some of them right, or all wrong.
fn propose(running: &Running, right: &[u32], dice: &mut Dice) -> Vec<u32> {
    let depth = dice.below(4).min(LENGTH.saturating_sub(running.output.len() + 1));
    let next = |index: usize| right[(running.output.len() + index).min(right.len() - 1)];
    let kind = dice.below(3);
    (0..depth)
        .map(|index| match kind {
            0 => next(index),
            1 if dice.below(3) > 0 => next(index),
            // What the model proposes when its numbers are not finite.
            1 if dice.below(4) == 0 => VOCAB as u32,
            _ => (next(index) + 1) % TOKENS as u32,
        })
        .collect()
}

#[test]
fn answers_do_not_depend_on_company_slot_or_drafts() {
    const SLOTS: usize = 6;
    let mut dice = Dice(1);
    let requests = requests();
    let want: Vec<Vec<u32>> = requests.iter().map(|asked| alone(asked, LENGTH)).collect();
    for _ in 0..8 {
        let mut sampler = Sampler::new(SLOTS, VOCAB, TOKENS, &Device::flex());
        let mut free: Vec<u32> = (0..SLOTS as u32).collect();
        let mut waiting: Vec<usize> = (0..requests.len()).collect();
        let mut batch: Vec<(usize, Running)> = Vec::new();
        let mut answered = 0;
        while answered < requests.len() {
            while !waiting.is_empty() && !free.is_empty() && dice.below(3) > 0 {
                let index = waiting.swap_remove(dice.below(waiting.len()));
                let slot = free.swap_remove(dice.below(free.len()));
                batch.push((index, Running::open(&requests[index], slot, &mut sampler)));
            }
            // Now and then one is moved, as after preemption.
            if !batch.is_empty() && !free.is_empty() && dice.below(4) == 0 {
                let place = dice.below(batch.len());
                let taken = dice.below(free.len());
                let slot = std::mem::replace(&mut free[taken], batch[place].1.slot);
                batch[place].1.reopen(slot, &mut sampler);
            }
            // Some of them take part, in any order.
            let mut taking = Vec::new();
            for _ in 0..batch.len().min(1 + dice.below(SLOTS)) {
                taking.push(batch.swap_remove(dice.below(batch.len())));
            }
            if taking.is_empty() {
                continue;
            }
            let (indices, mut running): (Vec<usize>, Vec<Running>) = taking.into_iter().unzip();
            let drafts: Vec<Vec<u32>> = indices
                .iter()
                .zip(&running)
                .map(|(index, running)| propose(running, &want[*index], &mut dice))
                .collect();
            step(&mut sampler, &mut running, &drafts, None);
            for (index, running) in indices.into_iter().zip(running) {
                if running.output.len() < LENGTH {
                    batch.push((index, running));
                    continue;
                }
                assert_eq!(running.output[..LENGTH], want[index], "{:?}", running.asked);
                free.push(running.slot);
                answered += 1;
            }
        }
    }
}

#[test]
fn places_that_the_host_does_not_know_yet_have_the_same_numbers() {
    let mut dice = Dice(2);
    let requests: Vec<Asked> =
        requests().into_iter().filter(|asked| (asked.mask)(0) == RowMask::Free).collect();
    let want: Vec<Vec<u32>> = requests.iter().map(|asked| alone(asked, LENGTH)).collect();
    for _ in 0..8 {
        let device = Device::flex();
        let mut sampler = Sampler::new(requests.len(), VOCAB, TOKENS, &device);
        let mut running: Vec<Running> = (0..)
            .zip(&requests)
            .map(|(slot, asked)| Running::open(asked, slot, &mut sampler))
            .collect();
        let mut shift = None;
        while running.iter().any(|running| running.output.len() < LENGTH) {
            let drafts: Vec<Vec<u32>> = running
                .iter()
                .zip(&want)
                .map(|(running, want)| propose(running, want, &mut dice))
                .collect();
            let first = running.iter().map(|running| running.output.len()).collect::<Vec<_>>();
            let accepted = step(&mut sampler, &mut running, &drafts, shift);
            // The next step counts from this one's first place, which the device moves on.
            running.iter_mut().zip(first).for_each(|(running, first)| running.place = first);
            shift = Some(accepted);
        }
        for (running, want) in running.iter().zip(&want) {
            assert_eq!(running.output[..LENGTH], want[..], "{:?}", running.asked);
        }
    }
}

#[test]
fn right_drafts_are_all_accepted() {
    for asked in requests() {
        let want = alone(&asked, 5);
        let mut sampler = Sampler::new(1, VOCAB, TOKENS, &Device::flex());
        let mut running = [Running::open(&asked, 0, &mut sampler)];
        let accepted = step(&mut sampler, &mut running, &[want[..4].to_vec()], None);
        assert_eq!(ids(&accepted), [4], "{asked:?}");
        assert_eq!(running[0].output, want);
    }
}

#[test]
fn a_seed_repeats_its_draws_and_another_does_not() {
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::greedy() };
    let asked = |seed| Asked { params: params.clone(), seed, prompt: vec![1], mask: all_free };
    assert_eq!(alone(&asked(7), 40), alone(&asked(7), 40));
    assert_ne!(alone(&asked(7), 40), alone(&asked(8), 40));
}
