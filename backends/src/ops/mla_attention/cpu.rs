//! Both forms on the CPU. In the absorbed form all heads share one KV head, whose keys are the cached rows
//! and whose values are the latents in them. In the expanded form a head's keys and values are made for
//! its sequence, attended to, and forgotten before those of the next head.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use std::borrow::Cow;
use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::{MlaForm, MlaQueries};
use crate::cpu::{
    Isa, LANES, Matrix, Queries, Seen, Shared, Sink, State, TILE, Tile, Tokens, in_pieces, mix,
};
use crate::kv::{KvLayer, PageTables, Parts};
use crate::ops::flex::{Cached, HeldRows, HeldWeight, WeightForm};
use crate::ops::paged_attention::cpu::{Form, Places, Tables, over_rows};
use crate::weight::Weight;

/// Tokens that are attended to at a time in the expanded form.
const BLOCK: usize = 32;

/// What the tensors do not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latents {
    page_size: usize,
    scale: f32,
    form: MlaForm,
    kv_b: WeightForm,
}

/// Attention over latents as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait MlaAttention: Backend {
    /// `nope [tokens, heads, nope]`, `rope [tokens, heads, rope]` in f32, `kv_b
    /// [heads * (nope + value), latent]` → `[tokens, heads, value]` in f32.
    fn attend_to_latents(
        nope: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        #[extension_type] kv_b: HeldWeight<Self>,
        #[extension_type] latents: HeldRows<Self>,
        #[extension_type] tables: Tables<Self>,
        form: Latents,
    ) -> FloatTensor<Self>;
}

impl MlaAttention for Flex {
    fn attend_to_latents(
        nope: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        kv_b: HeldWeight<Self>,
        latents: HeldRows<Self>,
        tables: Tables<Self>,
        form: Latents,
    ) -> FloatTensor<Self> {
        let (nope, rope, kv_b) = (nope.to_contiguous(), rope.to_contiguous(), kv_b.contiguous());
        let [tokens, heads, nope_width] = nope.layout().shape().dims();
        let [_, _, rope_width] = rope.layout().shape().dims();
        let kv_b = kv_b.matrix(&form.kv_b);
        let latent = kv_b.width();
        let value = kv_b.rows() / heads - nope_width;
        let isa = Isa::current();
        let parts = vec![Parts { count: 1, width: latent }, Parts { count: 1, width: rope_width }];
        let cached = Cached::new(isa, &latents, &parts, 1);
        let step = Step {
            isa,
            nope: nope.as_slice().expect("contiguous"),
            rope: rope.as_slice().expect("contiguous"),
            kv_b,
            cached: &cached,
            places: Places::new(&tables, form.page_size),
            tokens,
            heads,
            widths: Widths { nope: nope_width, rope: rope_width, value, latent },
            scale: form.scale,
        };
        let out = match form.form {
            MlaForm::Absorbed => step.absorbed(parts),
            MlaForm::Expanded => step.expanded(),
        };
        FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, heads, value]))
    }
}

/// See [`super::mla_attention`], for queries in f32.
pub(super) fn mla_attention(
    q: MlaQueries,
    kv_b: &Weight,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
    form: MlaForm,
) -> Tensor<3> {
    let form = Latents { page_size, scale: scale as f32, form, kv_b: WeightForm::of(kv_b) };
    Tensor::from_dispatch(Dispatch::attend_to_latents(
        q.nope.into_dispatch(),
        q.rope.into_dispatch(),
        kv_b.into(),
        layer.latents().into(),
        tables.into(),
        form,
    ))
}

/// Values of a head, and of a cached row.
#[derive(Debug, Clone, Copy)]
struct Widths {
    nope: usize,
    rope: usize,
    value: usize,
    latent: usize,
}

struct Step<'a> {
    isa: Isa,
    /// `[tokens, heads, nope]`
    nope: &'a [f32],
    /// `[tokens, heads, rope]`
    rope: &'a [f32],
    kv_b: Matrix<'a>,
    cached: &'a Cached<'a>,
    places: Places,
    tokens: usize,
    heads: usize,
    widths: Widths,
    scale: f32,
}

impl Step<'_> {
    /// `W_UK` and `W_UV` of a head.
    fn up(&self, head: usize) -> [Matrix<'_>; 2] {
        let Widths { nope, value, .. } = self.widths;
        let first = head * (nope + value);
        [self.kv_b.part(first..first + nope), self.kv_b.part(first + nope..first + nope + value)]
    }

    fn absorbed(&self, parts: Vec<Parts>) -> Vec<f32> {
        let Widths { nope, rope, value, latent } = self.widths;
        let (tokens, heads, width) = (self.tokens, self.heads, latent + rope);
        // Queries of latents: W_UKᵀ q, and the rotated part as it is.
        let mut q = vec![0.0; tokens * heads * width];
        let shared = Shared::new(&mut q);
        in_pieces(heads, true, |head| {
            let [up, _] = self.up(head);
            let x = |token: usize| &self.nope[(token * heads + head) * nope..][..nope];
            for token in 0..tokens {
                let row = token * heads + head;
                // SAFETY: each head has a place of its own.
                let into = unsafe { shared.part(row * width + latent, rope) };
                into.copy_from_slice(&self.rope[row * rope..][..rope]);
            }
            let first = head * width;
            // SAFETY: as above.
            let into = |token: usize| unsafe { shared.part(first + token * heads * width, latent) };
            mix(self.isa, &up, tokens, x, into);
        });

        let form = Form {
            kv_heads: 1,
            parts,
            value_width: latent,
            page_size: self.places.page_size(),
            scale: self.scale,
        };
        let mut sums = vec![0.0; tokens * heads * latent];
        let cached = [self.cached; 2];
        over_rows(self.isa, &q, heads, cached, &self.places, &form, &mut sums);

        let mut out = vec![0.0; tokens * heads * value];
        let shared = Shared::new(&mut out);
        in_pieces(heads, true, |head| {
            let [_, up] = self.up(head);
            let row =
                |token: usize| Cow::Borrowed(&sums[(token * heads + head) * latent..][..latent]);
            let x = Tokens::of_rows(self.isa, tokens, row, &up);
            let sink = Sink { out: shared, first: head * value, stride: heads * value };
            // SAFETY: each head has a place of its own.
            unsafe { x.times(&up, sink) };
        });
        out
    }

    fn expanded(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.tokens * self.heads * self.widths.value];
        let shared = Shared::new(&mut out);
        // All tokens of a sequence are neighbours.
        for (tokens, sequence) in self.places.blocks(usize::MAX) {
            let rows = self.places.rows(&tokens);
            let latents = self.latents(sequence, rows);
            in_pieces(self.heads, true, |head| self.head(head, &latents, &tokens, shared));
        }
        out
    }

    /// The cached rows of a sequence, laid out for the products with `kv_b`.
    fn latents(&self, sequence: usize, rows: usize) -> CachedRows {
        let Widths { rope, latent, .. } = self.widths;
        let mut latents = vec![0.0; rows * latent];
        let mut rotated = vec![0.0; rows * rope];
        let (to, to_rotated) = (Shared::new(&mut latents), Shared::new(&mut rotated));
        in_pieces(rows.div_ceil(TILE), rows > 4 * TILE, |piece| {
            let mut row_values = vec![0.0; latent + rope];
            for row in piece * TILE..rows.min((piece + 1) * TILE) {
                self.cached.read(self.places.slot(sequence, row), 0, &mut row_values);
                // SAFETY: each piece has rows of its own.
                unsafe {
                    to.part(row * latent, latent).copy_from_slice(&row_values[..latent]);
                    to_rotated.part(row * rope, rope).copy_from_slice(&row_values[latent..]);
                }
            }
        });
        CachedRows { tokens: Tokens::new(self.isa, &latents, &self.kv_b), rotated, rows }
    }

    /// Attention of one head for some tokens of a sequence.
    fn head(&self, head: usize, cached: &CachedRows, tokens: &Range<usize>, out: Shared<'_, f32>) {
        let Widths { nope, rope, value, .. } = self.widths;
        let (width, heads) = (nope + rope, self.heads);
        let (wide, wide_value) = (width.next_multiple_of(LANES), value.next_multiple_of(LANES));
        let mut keys = vec![0.0; cached.rows * wide];
        let mut values = vec![0.0; cached.rows * wide_value];
        let [up_keys, up_values] = self.up(head);
        for (up, into, stride) in [(up_keys, &mut keys, wide), (up_values, &mut values, wide_value)]
        {
            let sink = Sink { out: Shared::new(into), first: 0, stride };
            // SAFETY: both are this head's own.
            unsafe { cached.tokens.times(&up, sink) };
        }
        for (key, rotated) in keys.chunks_exact_mut(wide).zip(cached.rotated.chunks_exact(rope)) {
            key[nope..width].copy_from_slice(rotated);
        }
        for first in (tokens.start..tokens.end).step_by(BLOCK) {
            let block = first..tokens.end.min(first + BLOCK);
            let positions = &self.places.positions()[block.clone()];
            let queries = Queries::new(block.len(), width, self.scale, |query, into| {
                let row = (first + query) * heads + head;
                into[..nope].copy_from_slice(&self.nope[row * nope..][..nope]);
                into[nope..].copy_from_slice(&self.rope[row * rope..][..rope]);
            });
            let mut state = State::new(block.len(), value);
            let seen = self.places.rows(&block);
            for first in (0..seen).step_by(TILE) {
                let tile = Tile {
                    rows: TILE.min(seen - first),
                    keys: &keys[first * wide..],
                    key_stride: wide,
                    values: &values[first * wide_value..],
                    value_stride: wide_value,
                    next: None,
                };
                let seen = Seen { positions, heads: 1, first };
                queries.attend(self.isa, tile, seen, &mut state);
            }
            for query in 0..block.len() {
                let place = ((first + query) * heads + head) * value;
                // SAFETY: each head has places of its own.
                state.write(query, unsafe { out.part(place, value) });
            }
        }
    }
}

/// Rows of one sequence.
struct CachedRows {
    /// Their latents.
    tokens: Tokens,
    /// `[rows, rope]`
    rotated: Vec<f32>,
    rows: usize,
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::kv::{KvPool, KvSpec};
    use crate::ops::case::{Inputs, PagedCase, kv_format};
    use crate::ops::mla_attention::reference;

    type Attend = fn(MlaQueries, &Weight, &KvLayer, &PageTables, usize, f64, MlaForm) -> Tensor<3>;

    #[test]
    fn the_kernel_agrees_with_the_reference() {
        let device = Device::flex();
        let sequences = [[3, 1], [70, 9], [0, 30], [40, 1]];
        let (heads, nope, rope, value, latent, page_size) = (10, 12, 6, 20, 28, 8);
        let case = PagedCase::new(&sequences, page_size, &device);
        for format in [kv_format::F32, kv_format::BF16, kv_format::F16, kv_format::FP8] {
            let mut inputs = Inputs::new(7, &device);
            let format = inputs.kv_format(format);
            let spec = KvSpec::Mla { layers: 1, latent, rope, page_size };
            let mut pool = KvPool::new(spec, case.pages, format, &device);
            let rows = case.slots.dims()[0];
            let rows = inputs.floats([rows, latent + rope], 1.0);
            pool.layer(0).write_latents(rows, case.slots.clone());
            let [tokens] = case.tables.positions.dims();
            let q = MlaQueries {
                nope: inputs.floats([tokens, heads, nope], 1.0),
                rope: inputs.floats([tokens, heads, rope], 1.0),
            };
            let kv_b = inputs.floats([heads * (nope + value), latent], 0.5);
            let (kv_b, layer) = (Weight::Dense(kv_b), pool.layer(0));
            for form in [MlaForm::Absorbed, MlaForm::Expanded] {
                let q = q.clone();
                let attend =
                    |of: Attend| of(q.clone(), &kv_b, layer, &case.tables, page_size, 0.2, form);
                let (got, want) = (attend(mla_attention), attend(reference::mla_attention));
                let most = (got - want).abs().max().cast(DType::F32).into_scalar::<f32>();
                assert!(most < 2e-5, "{format:?} {form:?}: {most}");
            }
        }
    }
}
