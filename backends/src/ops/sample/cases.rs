use burn::tensor::{Int, Tensor, TensorData};

use super::{Draw, Penalties, allow, argmax, logprobs, penalise, sample, verify};
use crate::ops::case::{Case, Inputs, Kernel};

/// Shapes are sequences, rows of each, and the vocabulary.
pub(crate) const KERNEL: Kernel = Kernel {
    name: "sample",
    cases: &[
        Case { label: "one_row", shape: &[1, 1, 2048], seed: 1 },
        Case { label: "odd_vocabulary", shape: &[5, 1, 1003], seed: 2 },
        Case { label: "drafts", shape: &[4, 3, 1000], seed: 3 },
    ],
    // Ids are exact: one that differs is far more than this of all that comes out.
    tolerance: 1e-6,
    bf16_tolerance: 1e-2,
    run: |case, inputs| {
        let [sequences, width, vocab_size] = case.dims();
        let rows = sequences * width;
        let tokens = vocab_size - 5;
        let logits = inputs.floats([rows, vocab_size], 3.0);
        let mut values = Vec::new();

        let greedy = argmax(logits.clone(), tokens);
        values.extend(inputs.values(greedy.clone().float()));
        values.extend(inputs.values(argmax(with_nan(logits.clone(), rows / 2), tokens).float()));

        let draw = draw(inputs, rows);
        values.extend(inputs.values(sample(logits.clone(), tokens, &draw).float()));
        let plain = Draw { greedy: None, top_k: None, top_p: None, min_p: None, ..draw };
        values.extend(inputs.values(sample(logits.clone(), tokens, &plain).float()));

        // Half of the drafts are right, and one is no token.
        let ids: Tensor<2, Int> = greedy.reshape([sequences, width]);
        let drafts = (width > 1).then(|| {
            let right = inputs.ints([sequences, width - 1], 2);
            (ids.clone().narrow(1, 0, width - 1) * right.clone()) + (right - 1) * -(tokens as i64)
        });
        if let Some(drafts) = drafts.clone() {
            let counts = inputs.ints([sequences], width);
            values.extend(inputs.values(verify(ids.clone(), drafts, counts, tokens).float()));
        }

        let penalties = penalties(inputs, [rows, vocab_size], drafts);
        values.extend(inputs.values(penalise(logits.clone(), &penalties)));

        let mut words = || inputs.ints([rows, vocab_size.div_ceil(32)], 1 << 31);
        let words = words() - words();
        values.extend(inputs.values(allow(logits.clone(), words).clamp_min(-9.0)));

        let next = inputs.ints([rows], tokens);
        let found = logprobs(logits, tokens, next, 4);
        let (top_ids, top) = found.top.expect("asked for");
        values.extend(inputs.values(found.chosen));
        values.extend(inputs.values(top_ids.float()));
        values.extend(inputs.values(top));
        values
    },
};

/// The logits with one in a row that is not a number.
fn with_nan(logits: Tensor<2>, row: usize) -> Tensor<2> {
    let [rows, vocab_size] = logits.dims();
    let mut added = vec![0.0; rows * vocab_size];
    added[row * vocab_size + vocab_size / 2] = f32::NAN;
    let options = (&logits.device(), logits.dtype());
    logits + Tensor::from_data(TensorData::new(added, [rows, vocab_size]), options)
}

/// Every part, off for some rows where there are enough.
fn draw(inputs: &mut Inputs, rows: usize) -> Draw {
    let mut around = |middle: f32, spread| inputs.floats([rows], spread).add_scalar(middle);
    Draw {
        temperature: around(1.0, 0.3),
        greedy: Some(around(0.3, 0.5)),
        top_k: Some(around(40.0, 10.0)),
        top_p: Some(around(0.95, 0.2)),
        min_p: Some(around(0.0, 0.03)),
        uniform: around(0.5, 0.49),
    }
}

fn penalties(
    inputs: &mut Inputs,
    [rows, vocab_size]: [usize; 2],
    drafts: Option<Tensor<2, Int>>,
) -> Penalties {
    const SLOTS: usize = 3;
    Penalties {
        repetition: Some(inputs.floats([rows], 0.4).add_scalar(1.2)),
        presence: Some(inputs.floats([rows], 0.5)),
        frequency: Some(inputs.floats([rows], 0.5)),
        seen: inputs.ints([SLOTS, vocab_size], 6).float() * 0.5,
        slots: inputs.ints([rows], SLOTS),
        drafts,
    }
}
