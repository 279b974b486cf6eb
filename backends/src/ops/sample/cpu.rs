//! The same on the host's memory, a row at a time and the rows in parallel: the reference passes
//! over the vocabulary up to two hundred times, this a few times.

use burn::backend::Flex;
use burn::tensor::{DType, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{Draw, FLOOR, Logprobs, NEVER, Penalties};

pub(super) fn argmax(logits: Tensor<2>, tokens: usize) -> Tensor<1, Int> {
    choose(logits, tokens, |_, logits| best(logits).map(|(id, _)| id))
}

pub(super) fn sample(logits: Tensor<2>, tokens: usize, draw: &Draw) -> Tensor<1, Int> {
    let off = |value: f32| vec![value; logits.dims()[0]];
    let part = |part: &Option<Tensor<1>>, neutral| part.as_ref().map_or(off(neutral), floats);
    let temperature = floats(&draw.temperature);
    let uniform = floats(&draw.uniform);
    let greedy = part(&draw.greedy, 0.0);
    let top_k = part(&draw.top_k, f32::MAX);
    let top_p = part(&draw.top_p, 2.0);
    let min_p = part(&draw.min_p, 0.0);
    choose(logits, tokens, |row, logits| {
        let (best, highest) = best(logits)?;
        if greedy[row] > 0.5 {
            return Some(best);
        }
        let cut = Cut { top_k: top_k[row], top_p: top_p[row], min_p: min_p[row] };
        let highest = highest / temperature[row];
        let relative: Vec<f32> =
            logits.iter().map(|logit| logit / temperature[row] - highest).collect();
        Some(cut.draw(&relative, uniform[row]).unwrap_or(best))
    })
}

/// Applies `pick` to each row and its logits without padding.
fn choose(
    logits: Tensor<2>,
    tokens: usize,
    pick: impl Fn(usize, &[f32]) -> Option<usize> + Sync,
) -> Tensor<1, Int> {
    let [_, vocab_size] = logits.dims();
    let device = logits.device();
    let ids: Vec<i32> = read(logits, |values| {
        let rows = values.par_chunks(vocab_size).enumerate();
        rows.map(|(row, logits)| pick(row, &logits[..tokens]).unwrap_or(vocab_size) as i32)
            .collect()
    });
    Tensor::from_data(ids.as_slice(), &device)
}

/// The largest value and its first place; `None` where a value is not finite.
fn best(logits: &[f32]) -> Option<(usize, f32)> {
    // Lanes, because the compiler does not reorder a maximum of floats.
    let mut lanes = [f32::MIN; 16];
    let mut largest_bits = [0u32; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut last = [f32::MIN; 16];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain([&last]) {
        for lane in 0..16 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            largest_bits[lane] = largest_bits[lane].max(chunk[lane].to_bits() << 1);
        }
    }
    let finite = largest_bits.iter().all(|bits| *bits < f32::INFINITY.to_bits() << 1);
    let highest = lanes.into_iter().fold(f32::MIN, f32::max);
    let place = logits.iter().position(|logit| *logit == highest);
    place.filter(|_| finite).map(|place| (place, highest))
}

struct Cut {
    top_k: f32,
    top_p: f32,
    min_p: f32,
}

impl Cut {
    /// The token at `uniform` of what is kept; `relative` to the best token's logit.
    fn draw(&self, relative: &[f32], uniform: f32) -> Option<usize> {
        let mut floor = FLOOR.max(self.min_p.max(f32::MIN_POSITIVE).ln());
        if self.top_k < relative.len() as f32 {
            let kept = relative.iter().filter(|value| **value >= floor);
            floor = floor.max(threshold(kept.map(|value| (*value, 1.0)), self.top_k.into()));
        }
        let weight = |value: &f32| if *value >= floor { value.exp() } else { 0.0 };
        let mut weights: Vec<f32> = relative.iter().map(weight).collect();
        let mut total: f64 = weights.iter().copied().map(f64::from).sum();
        if self.top_p < 1.0 {
            let kept = relative.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0);
            let kept = kept.map(|(value, weight)| (*value, f64::from(*weight)));
            let least = threshold(kept, f64::from(self.top_p) * total);
            for (weight, value) in weights.iter_mut().zip(relative) {
                *weight = if *value >= least { *weight } else { 0.0 };
            }
            total = weights.iter().copied().map(f64::from).sum();
        }
        let target = f64::from(uniform) * total;
        let mut reached = 0.0;
        weights.iter().position(|weight| {
            reached += f64::from(*weight);
            *weight > 0.0 && reached > target
        })
    }
}

/// The value down to which the weights of `(value, weight)` add up to `wanted`, the largest values
/// first; `FLOOR` where they do not.
fn threshold(values: impl Iterator<Item = (f32, f64)> + Clone, wanted: f64) -> f32 {
    const BUCKETS: usize = 4096;
    let bucket = |value: f32| (value * (BUCKETS as f32 / FLOOR)) as usize;
    let mut sums = [0.0; BUCKETS + 1];
    for (value, weight) in values.clone() {
        sums[bucket(value)] += weight;
    }
    let mut sum = 0.0;
    for (index, added) in sums.into_iter().enumerate() {
        if sum + added < wanted {
            sum += added;
            continue;
        }
        let mut within: Vec<_> = values.filter(|(value, _)| bucket(*value) == index).collect();
        within.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let last = within.iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        return last.or(within.len().checked_sub(1)).map_or(FLOOR, |last| within[last].0);
    }
    FLOOR
}

pub(super) fn penalise(logits: Tensor<2>, penalties: &Penalties) -> Tensor<2> {
    let [rows, vocab_size] = logits.dims();
    let part = |part: &Option<Tensor<1>>, off| part.as_ref().map_or(vec![off; rows], floats);
    let repetition = part(&penalties.repetition, 1.0);
    let presence = part(&penalties.presence, 0.0);
    let frequency = part(&penalties.frequency, 0.0);
    let slots = ints(&penalties.slots);
    let depth = penalties.drafts.as_ref().map_or(0, |drafts| drafts.dims()[1]);
    let drafts = penalties.drafts.as_ref().map(ints).unwrap_or_default();

    let penalise_row = |row: usize, logits: &mut [f32], seen: &[f32]| {
        let penalised = |logit: f32, seen: f32| {
            let repeated =
                if logit > 0.0 { logit / repetition[row] } else { logit * repetition[row] };
            let in_output = if seen >= 1.0 { presence[row] } else { 0.0 };
            repeated - in_output - seen.floor() * frequency[row]
        };
        let before = &drafts[row / (depth + 1) * depth..][..row % (depth + 1)];
        let drafted: Vec<(usize, f32)> = before
            .iter()
            .filter(|id| (**id as usize) < vocab_size)
            .map(|id| {
                let count = before.iter().filter(|other| *other == id).count();
                let id = *id as usize;
                (id, penalised(logits[id], seen[id] + count as f32))
            })
            .collect();
        for (logit, seen) in logits.iter_mut().zip(seen).filter(|(_, seen)| **seen > 0.0) {
            *logit = penalised(*logit, *seen);
        }
        for (id, logit) in drafted {
            logits[id] = logit;
        }
    };
    read(penalties.seen.clone(), |seen| {
        change_rows(logits, |row, logits| {
            let start = slots[row] as usize * vocab_size;
            penalise_row(row, logits, &seen[start..start + vocab_size]);
        })
    })
}

pub(super) fn allow(logits: Tensor<2>, words: &Tensor<2, Int>) -> Tensor<2> {
    let per_row = words.dims()[1];
    let words = ints(words);
    change_rows(logits, |row, logits| {
        let words = &words[row * per_row..][..per_row];
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            // A word with all bits is -1, as in a row where everything is allowed.
            for (bit, logit) in logits.iter_mut().enumerate().filter(|_| *word != -1) {
                *logit += if word >> bit & 1 == 1 { 0.0 } else { NEVER };
            }
        }
    })
}

pub(super) fn logprobs(
    logits: Tensor<2>,
    tokens: usize,
    ids: &Tensor<1, Int>,
    top: usize,
) -> Logprobs {
    let [rows, vocab_size] = logits.dims();
    let device = logits.device();
    let ids = ints(ids);
    let of_row = |row: usize, logits: &[f32]| {
        let largest = largest(logits, top.max(1));
        let highest = logits[largest[0]];
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - highest).exp())).sum();
        let logprob = |id: usize| (f64::from(logits[id] - highest) - sum.ln()) as f32;
        let top: Vec<(i32, f32)> =
            largest[..top].iter().map(|id| (*id as i32, logprob(*id))).collect();
        (logprob((ids[row] as usize).min(tokens - 1)), top)
    };
    let found: Vec<(f32, Vec<(i32, f32)>)> = read(logits, |values| {
        let rows = values.par_chunks(vocab_size).enumerate();
        rows.map(|(row, logits)| of_row(row, &logits[..tokens])).collect()
    });
    let chosen: Vec<f32> = found.iter().map(|(chosen, _)| *chosen).collect();
    let (top_ids, top_values): (Vec<i32>, Vec<f32>) =
        found.into_iter().flat_map(|(_, top)| top).unzip();
    Logprobs {
        chosen: Tensor::from_data(chosen.as_slice(), (&device, DType::F32)),
        top: (top > 0).then(|| {
            let values = TensorData::new(top_values, [rows, top]);
            let ids = TensorData::new(top_ids, [rows, top]);
            (Tensor::from_data(ids, &device), Tensor::from_data(values, (&device, DType::F32)))
        }),
    }
}

/// Places of the `count` largest values, the largest first, the lowest place among equals.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = Vec::with_capacity(count + 1);
    for (place, value) in values.iter().enumerate() {
        if places.len() == count && *value <= values[places[count - 1]] {
            continue;
        }
        let after = places.partition_point(|other| values[*other] >= *value);
        places.insert(after, place);
        places.truncate(count);
    }
    places
}

fn floats(values: &Tensor<1>) -> Vec<f32> {
    values.to_data().try_to_vec_as().expect("float values")
}

fn ints<const D: usize>(values: &Tensor<D, Int>) -> Vec<i64> {
    values.to_data().try_to_vec_as().expect("integer values")
}

/// Reads a tensor's values where they lie.
fn read<T>(tensor: Tensor<2>, look: impl FnOnce(&[f32]) -> T) -> T {
    let tensor = tensor.try_into_primitive::<Flex>().expect("a tensor of the CPU");
    let tensor = tensor.to_contiguous();
    let (start, end) = tensor.layout().contiguous_offsets().expect("contiguous");
    look(&tensor.storage::<f32>()[start..end])
}

/// Changes a tensor's rows where they lie, or in a copy where the values are shared.
fn change_rows(tensor: Tensor<2>, change: impl Fn(usize, &mut [f32]) + Sync) -> Tensor<2> {
    let [_, width] = tensor.dims();
    let tensor = tensor.try_into_primitive::<Flex>().expect("a tensor of the CPU");
    let mut tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
    let (start, end) = tensor.layout().contiguous_offsets().expect("contiguous");
    let rows = tensor.storage_mut::<f32>()[start..end].par_chunks_mut(width).enumerate();
    rows.for_each(|(row, values)| change(row, values));
    Tensor::from_primitive::<Flex>(tensor)
}
