#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::{Kinds, Parts, allow_kernel, choose_kernel, penalise_kernel, verify_kernel};
use super::{Draw, Penalties};
use crate::cube::{self, Abilities};

pub(super) fn argmax(logits: Tensor<2>, tokens: usize) -> Tensor<1, Int> {
    cube::int_tensor(choose(&cube::floats(logits), tokens, None))
}

pub(super) fn sample(logits: Tensor<2>, tokens: usize, draw: &Draw) -> Tensor<1, Int> {
    let part = |part: &Option<Tensor<1>>| part.clone().map(cube::floats);
    let draw = DrawBuffers {
        temperature: cube::floats(draw.temperature.clone()),
        greedy: part(&draw.greedy),
        top_k: part(&draw.top_k),
        top_p: part(&draw.top_p),
        min_p: part(&draw.min_p),
        uniform: cube::floats(draw.uniform.clone()),
    };
    cube::int_tensor(choose(&cube::floats(logits), tokens, Some(&draw)))
}

/// [`Draw`] as buffers of `[rows]`.
#[derive(Debug)]
pub(super) struct DrawBuffers {
    pub(super) temperature: CubeTensor,
    pub(super) greedy: Option<CubeTensor>,
    pub(super) top_k: Option<CubeTensor>,
    pub(super) top_p: Option<CubeTensor>,
    pub(super) min_p: Option<CubeTensor>,
    pub(super) uniform: CubeTensor,
}

/// `logits [rows, vocab_size]` → ids `[rows]`.
pub(super) fn choose(logits: &CubeTensor, tokens: usize, draw: Option<&DrawBuffers>) -> CubeTensor {
    let abilities = Abilities::of(&logits.client);
    let [rows, vocab_size] = cube::dims(logits);
    let ids = cube::empty(logits, [rows], DType::I32);
    let none = cube::empty(logits, [1], DType::F32);
    let part = |part: Option<&CubeTensor>| part.unwrap_or(&none).clone().into_buffer_arg();
    let of = |of: fn(&DrawBuffers) -> &Option<CubeTensor>| draw.and_then(|draw| of(draw).as_ref());
    let (greedy, top_k) = (of(|draw| &draw.greedy), of(|draw| &draw.top_k));
    let (top_p, min_p) = (of(|draw| &draw.top_p), of(|draw| &draw.min_p));
    let least = abilities.plane.unwrap_or(32);
    let units = tokens.div_ceil(4).next_power_of_two();
    let units = units.clamp(least, 1024.min(abilities.units).max(least));
    // SAFETY: cubes past the rows and units past the tokens do nothing.
    unsafe {
        choose_kernel::launch_unchecked(
            cube::counted(&logits.client),
            cube::cubes(rows),
            CubeDim::new_1d(units as u32),
            logits.required_address_type(),
            logits.clone().into_buffer_arg(),
            part(draw.map(|draw| &draw.temperature)),
            part(greedy),
            part(top_k),
            part(top_p),
            part(min_p),
            part(draw.map(|draw| &draw.uniform)),
            ids.clone().into_buffer_arg(),
            rows as u32,
            vocab_size as u32,
            tokens.min(vocab_size) as u32,
            Parts {
                draws: draw.is_some(),
                greedy: greedy.is_some(),
                top_k: top_k.is_some(),
                top_p: top_p.is_some(),
                min_p: min_p.is_some(),
                units,
                plane: abilities.plane_size(),
            },
        );
    }
    ids
}

pub(super) fn penalise(logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    let logits = cube::floats(logits);
    let [rows, vocab_size] = cube::dims(&logits);
    let none = cube::empty(&logits, [1], DType::F32);
    let part = |part: &Option<Tensor<1>>| {
        let buffer = part.clone().map_or_else(|| none.clone(), cube::floats);
        buffer.into_buffer_arg()
    };
    let seen = cube::strided(penalties.seen.clone());
    let depth = penalties.drafts.as_ref().map_or(0, |drafts| drafts.dims()[1]);
    let drafts = penalties.drafts.clone().map_or_else(|| none.clone(), cube::ints);
    let out = cube::empty(&logits, [rows, vocab_size], DType::F32);
    let units = 256.min(Abilities::of(&logits.client).units);
    let kinds = Kinds {
        repetition: penalties.repetition.is_some(),
        presence: penalties.presence.is_some(),
        frequency: penalties.frequency.is_some(),
        depth,
    };
    // SAFETY: units past the last logit do nothing, and slots are rows of `seen`.
    unsafe {
        penalise_kernel::launch_unchecked(
            cube::counted(&logits.client),
            cube::cubes((rows * vocab_size).div_ceil(units)),
            CubeDim::new_1d(units as u32),
            seen.required_address_type().max(logits.required_address_type()),
            logits.clone().into_buffer_arg(),
            seen.clone().into_buffer_arg(),
            cube::ints(penalties.slots.clone()).into_buffer_arg(),
            part(&penalties.repetition),
            part(&penalties.presence),
            part(&penalties.frequency),
            drafts.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows as u32,
            vocab_size as u32,
            cube::row_stride(&seen) as u32,
            kinds,
        );
    }
    cube::tensor(out)
}

pub(super) fn allow(logits: Tensor<2>, words: Tensor<2, Int>) -> Tensor<2> {
    let (logits, words) = (cube::floats(logits), cube::ints(words));
    let [rows, vocab_size] = cube::dims(&logits);
    let out = cube::empty(&logits, [rows, vocab_size], DType::F32);
    let units = 256.min(Abilities::of(&logits.client).units);
    // SAFETY: units past the last logit do nothing; a row has a bit for each.
    unsafe {
        allow_kernel::launch_unchecked(
            cube::counted(&logits.client),
            cube::cubes((rows * vocab_size).div_ceil(units)),
            CubeDim::new_1d(units as u32),
            logits.required_address_type(),
            logits.clone().into_buffer_arg(),
            words.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows as u32,
            vocab_size as u32,
        );
    }
    cube::tensor(out)
}

pub(super) fn verify(
    chosen: Tensor<2, Int>,
    drafts: Tensor<2, Int>,
    counts: Tensor<1, Int>,
    vocab_size: usize,
) -> Tensor<1, Int> {
    let [sequences, depth] = drafts.dims();
    let (chosen, drafts, counts) = (cube::ints(chosen), cube::ints(drafts), cube::ints(counts));
    let accepted = cube::empty(&chosen, [sequences], DType::I32);
    // SAFETY: units past the sequences do nothing.
    unsafe {
        verify_kernel::launch_unchecked(
            cube::counted(&chosen.client),
            cube::cubes(sequences.div_ceil(32)),
            CubeDim::new_1d(32),
            chosen.clone().into_buffer_arg(),
            drafts.into_buffer_arg(),
            counts.into_buffer_arg(),
            accepted.clone().into_buffer_arg(),
            sequences as u32,
            vocab_size as u32,
            depth,
        );
    }
    cube::int_tensor(accepted)
}
