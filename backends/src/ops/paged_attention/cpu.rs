//! Attention on the CPU: pages are read in place, and a token reads its own sequence only.
//!
//! Each token and head is computed by itself, in an order that depends on its position and on
//! nothing else of the step: what shares a batch, a chunk or a thread with it cannot change its
//! bits.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::softmax::{TILE, Tile, exponential, exponentials, maximum, scores, total};
use crate::kv::{KvLayer, KvRows, PageTables, Parts};
use crate::ops::flex::{ARCH, Cached, HeldRows, integers};

/// Most tokens that share the conversion of a tile.
const BLOCK: usize = 8;
/// Fewest heads that share it, where there are too few blocks to keep the threads busy.
const LEAST_HEADS: usize = 4;
/// Multiply-adds from which a second thread pays.
const PARALLEL: usize = 1 << 19;

/// What [`PageTables`] hold, as tensors of a backend.
#[derive(Debug, ExtensionType)]
pub(crate) struct Tables<B: Backend> {
    sequences: IntTensor<B>,
    positions: IntTensor<B>,
    block_tables: IntTensor<B>,
    query_starts: IntTensor<B>,
}

/// Constants of an attention layer.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) kv_heads: usize,
    /// Parts of a cached row.
    pub(crate) parts: Vec<Parts>,
    /// Values of a result: with no values in the cache, the first ones of a key.
    pub(crate) value_width: usize,
    pub(crate) page_size: usize,
    pub(crate) scale: f32,
}

/// Attention as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait PagedAttention: Backend {
    /// `q [tokens, heads, width]` in f32 → `[tokens, heads, value_width]` in f32.
    fn attend_to_pages(
        q: FloatTensor<Self>,
        #[extension_type] keys: HeldRows<Self>,
        #[extension_type] tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self>;

    /// The same with values of their own.
    fn attend_to_keys_and_values(
        q: FloatTensor<Self>,
        #[extension_type] keys: HeldRows<Self>,
        #[extension_type] values: HeldRows<Self>,
        #[extension_type] tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self>;
}

impl PagedAttention for Flex {
    fn attend_to_pages(
        q: FloatTensor<Self>,
        keys: HeldRows<Self>,
        tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let keys = Cached::new(&keys, &form.parts, form.kv_heads);
        attend(&q, &keys, None, &tables, &form)
    }

    fn attend_to_keys_and_values(
        q: FloatTensor<Self>,
        keys: HeldRows<Self>,
        values: HeldRows<Self>,
        tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let keys = Cached::new(&keys, &form.parts, form.kv_heads);
        let values = Cached::new(&values, &form.parts, form.kv_heads);
        attend(&q, &keys, Some(&values), &tables, &form)
    }
}

pub(super) fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, _, width] = q.dims();
    let kv_heads = layer.keys().width() / width;
    let form = Form {
        kv_heads,
        parts: vec![Parts { count: kv_heads, width }],
        value_width: width,
        page_size,
        scale: scale as f32,
    };
    over_pages(q, layer.keys(), Some(layer.values()), tables, form)
}

/// Attention in f32, in the dtype of `q` outside.
pub(crate) fn over_pages(
    q: Tensor<3>,
    keys: &KvRows,
    values: Option<&KvRows>,
    tables: &PageTables,
    form: Form,
) -> Tensor<3> {
    let dtype = q.dtype();
    let q = q.cast(DType::F32).into_dispatch();
    let tables = Tables::<Dispatch> {
        sequences: tables.sequences.clone().into_dispatch(),
        positions: tables.positions.clone().into_dispatch(),
        block_tables: tables.block_tables.clone().into_dispatch(),
        query_starts: tables.query_starts.clone().into_dispatch(),
    };
    let out = match values {
        None => Dispatch::attend_to_pages(q, keys.into(), tables, form),
        Some(values) => {
            Dispatch::attend_to_keys_and_values(q, keys.into(), values.into(), tables, form)
        }
    };
    Tensor::<3>::from_dispatch(out).cast(dtype)
}

fn attend(
    q: &FloatTensor<Flex>,
    keys: &Cached<'_>,
    values: Option<&Cached<'_>>,
    tables: &Tables<Flex>,
    form: &Form,
) -> FloatTensor<Flex> {
    let q = q.to_contiguous();
    let [tokens, heads, width] = q.layout().shape().dims();
    let [_, pages] = tables.block_tables.layout().shape().dims();
    let sequences = integers(&tables.sequences);
    // Rows after the last sequence are padding.
    let live = integers(&tables.query_starts).last().copied().unwrap_or(0);
    let step = Step {
        q: q.as_slice().expect("contiguous"),
        keys,
        values,
        positions: integers(&tables.positions),
        block_tables: integers(&tables.block_tables),
        pages,
        heads,
        width,
        form,
    };

    let blocks = blocks(&sequences[..live]);
    let group = heads / form.kv_heads;
    let crowd = 2 * rayon::current_num_threads();
    // Heads are computed by themselves, so that how they are divided changes nothing.
    let together = match blocks.len() * form.kv_heads < crowd {
        true => group.div_ceil(group.div_ceil(LEAST_HEADS)),
        false => group,
    };
    let mut items = Vec::new();
    for tokens in blocks {
        for kv_head in 0..form.kv_heads {
            let end = (kv_head + 1) * group;
            for first in (kv_head * group..end).step_by(together) {
                let heads = first..(first + together).min(end);
                let (tokens, sequence) = (tokens.clone(), sequences[tokens.start]);
                items.push(Item { step: &step, tokens, sequence, kv_head, heads });
            }
        }
    }
    let work = items.iter().map(Item::multiply_adds).sum::<usize>();
    let results: Vec<Vec<f32>> = match work < PARALLEL {
        true => items.iter().map(|item| ARCH.dispatch(item)).collect(),
        false => items.par_iter().map(|item| ARCH.dispatch(item)).collect(),
    };

    let value_width = form.value_width;
    let mut out = vec![0.0; tokens * heads * value_width];
    for (item, result) in items.iter().zip(results) {
        let run = item.heads.len() * value_width;
        for (token, values) in item.tokens.clone().zip(result.chunks(run)) {
            let first = (token * heads + item.heads.start) * value_width;
            out[first..first + run].copy_from_slice(values);
        }
    }
    FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, heads, value_width]))
}

/// Neighbouring tokens of one sequence, at most [`BLOCK`] at a time.
fn blocks(sequences: &[usize]) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (token, sequence) in sequences.iter().enumerate() {
        match blocks.last_mut() {
            Some(last) if last.len() < BLOCK && sequences[last.start] == *sequence => {
                last.end = token + 1;
            }
            _ => blocks.push(token..token + 1),
        }
    }
    blocks
}

/// All that the items of a step share.
#[derive(Debug)]
struct Step<'a> {
    /// `[tokens, heads, width]`
    q: &'a [f32],
    keys: &'a Cached<'a>,
    values: Option<&'a Cached<'a>>,
    positions: Vec<usize>,
    /// `[sequences, pages]`
    block_tables: Vec<usize>,
    pages: usize,
    heads: usize,
    width: usize,
    form: &'a Form,
}

/// Some heads of one KV head for some tokens of one sequence.
#[derive(Debug)]
struct Item<'a> {
    step: &'a Step<'a>,
    tokens: Range<usize>,
    sequence: usize,
    kv_head: usize,
    heads: Range<usize>,
}

impl Item<'_> {
    /// Cached rows that the tokens see between them.
    fn rows(&self) -> usize {
        let positions = self.tokens.clone().map(|token| self.step.positions[token] + 1);
        positions.max().unwrap_or(0)
    }

    fn multiply_adds(&self) -> usize {
        let widths = self.step.width + self.step.form.value_width;
        self.tokens.len() * self.heads.len() * self.rows() * widths
    }

    fn slot(&self, row: usize) -> usize {
        let (page, offset) = (row / self.step.form.page_size, row % self.step.form.page_size);
        let table = &self.step.block_tables[self.sequence * self.step.pages..];
        table[page] * self.step.form.page_size + offset
    }
}

/// Softmax over tiles of rows, with the largest score so far taken out of the exponent and the sums
/// corrected when a larger one comes ([Milakov & Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
impl WithSimd for &Item<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Step { keys, values, form, width, .. } = *self.step;
        let heads = self.heads.len();
        let queries = self.tokens.len() * heads;
        // Rows are padded with zeros to whole vectors.
        let wide = width.next_multiple_of(S::F32_LANES);
        let wide_values = form.value_width.next_multiple_of(S::F32_LANES);
        let mut q = vec![0.0; queries * wide];
        for (index, q) in q.chunks_exact_mut(wide).enumerate() {
            let (token, head) =
                (self.tokens.start + index / heads, self.heads.start + index % heads);
            let first = (token * self.step.heads + head) * width;
            q[..width].copy_from_slice(&self.step.q[first..first + width]);
        }
        let mut key_rows = vec![0.0; TILE * wide];
        let mut value_rows = vec![0.0; if values.is_some() { TILE * wide_values } else { 0 }];
        let mut sums = vec![0.0; queries * wide_values];
        let mut largest = vec![f32::NEG_INFINITY; queries];
        let mut weights_sums = vec![0.0; queries];

        let all = self.rows();
        for first in (0..all).step_by(TILE) {
            let rows = TILE.min(all - first);
            for row in 0..rows {
                let slot = self.slot(first + row);
                keys.read(slot, self.kv_head, &mut key_rows[row * wide..][..width]);
                if let Some(values) = values {
                    let into = &mut value_rows[row * wide_values..][..form.value_width];
                    values.read(slot, self.kv_head, into);
                }
            }
            let tile_values = match values {
                Some(_) => Tile { rows: &value_rows, stride: wide_values },
                None => Tile { rows: &key_rows, stride: wide },
            };
            for query in 0..queries {
                let position = self.step.positions[self.tokens.start + query / heads];
                let seen = (position + 1).saturating_sub(first).min(rows);
                if seen == 0 {
                    continue;
                }
                let q = &q[query * wide..][..wide];
                let sum = &mut sums[query * wide_values..][..wide_values];
                let mut weights = scores(simd, q, &key_rows, seen, form.scale);
                let before = largest[query];
                largest[query] = before.max(maximum(&weights));
                let correction = exponential(before - largest[query]);
                exponentials(&mut weights, largest[query], seen);
                weights_sums[query] = weights_sums[query] * correction + total(&weights);
                if correction != 1.0 {
                    sum.iter_mut().for_each(|sum| *sum *= correction);
                }
                tile_values.add_weighted(simd, &weights[..seen], sum);
            }
        }

        let mut out = Vec::with_capacity(queries * form.value_width);
        for (sum, weights) in sums.chunks_exact(wide_values).zip(weights_sums) {
            out.extend(sum[..form.value_width].iter().map(|sum| sum / weights));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{KvFormat, KvPool, KvSpec};
    use crate::ops::case::{Inputs, PagedCase, kv_format};
    use crate::ops::paged_attention::reference;

    /// A step over cached sequences, `[cached, queries]` each.
    fn attended(
        sequences: &[[usize; 2]],
        [heads, kv_heads, head_dim, page_size]: [usize; 4],
        format: KvFormat,
        seed: u64,
    ) -> [Vec<f32>; 2] {
        let device = Device::flex();
        let case = PagedCase::new(sequences, page_size, &device);
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size };
        let mut pool = KvPool::new(spec, case.pages, format, &device);
        // Each sequence has numbers of its own, whatever its neighbours are.
        let (mut keys, mut values, mut q) = (vec![], vec![], vec![]);
        for [cached, queries] in sequences {
            let mut inputs = Inputs::new(seed ^ (cached * 1000 + queries) as u64, &device);
            keys.push(inputs.floats([cached + queries, kv_heads * head_dim], 1.0));
            values.push(inputs.floats([cached + queries, kv_heads * head_dim], 1.0));
            q.push(inputs.floats([*queries, heads, head_dim], 2.0));
        }
        pool.layer(0).write(Tensor::cat(keys, 0), Tensor::cat(values, 0), case.slots);
        let (q, layer, scale) = (Tensor::cat(q, 0), pool.layer(0), (head_dim as f64).powf(-0.5));
        let read = |out: Tensor<3>| out.into_data().try_into_vec_as::<f32>().unwrap();
        [
            read(paged_attention(q.clone(), layer, &case.tables, page_size, scale)),
            read(reference::paged_attention(q, layer, &case.tables, page_size, scale)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_kernel_agrees_with_the_reference(
            sequences in prop::collection::vec([0..90_usize, 1..20_usize], 1..5),
            (kv_heads, group, head_dim) in (1..4_usize, 1..7_usize, 1..40_usize),
            page_size in 1..20_usize,
            format in 0..4_usize,
            seed: u64,
        ) {
            let shape = [kv_heads * group, kv_heads, head_dim, page_size];
            let format = Inputs::new(0, &Device::flex()).kv_format(format);
            let [got, want] = attended(&sequences, shape, format, seed);
            prop_assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }

    /// Alone, among others, in one chunk or token by token: the same bits.
    #[test]
    fn what_shares_the_step_does_not_change_a_bit() {
        for format in [kv_format::F32, kv_format::FP8] {
            let format = Inputs::new(0, &Device::flex()).kv_format(format);
            let shape = [12, 2, 24, 8];
            let run = |sequences: &[[usize; 2]]| attended(sequences, shape, format, 5)[0].clone();
            let alone = run(&[[70, 9]]);
            let crowd = run(&[[3, 1], [70, 9], [200, 1], [64, 30]]);
            let width = shape[0] * shape[2];
            assert_eq!(crowd[width..10 * width], alone);
        }
    }
}
