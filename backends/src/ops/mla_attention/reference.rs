use burn::tensor::{DType, Tensor, activation::softmax, s};

use super::{MlaForm, MlaQueries, PreparedQueries};
use crate::kv::{KvLayer, PageTables};
use crate::ops::pages::{HIDDEN, hidden, slots, slots_of_tiles, to_tiles, to_tokens};
use crate::ops::product::product;
use crate::weight::Weight;

/// Gathers for each tile of tokens the pages of its sequence, as the reference of `paged_attention`
/// does. `N` tiles of `M` tokens, `S` sequences, `R` rows of the longest block table.
pub(super) fn mla_attention(
    q: impl Into<PreparedQueries>,
    kv_b: &Weight,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
    form: MlaForm,
) -> Tensor<3> {
    let q = q.into();
    let up = UpProjection::new(&q, kv_b);
    match (q, form) {
        (PreparedQueries::Heads(q), MlaForm::Expanded) => {
            expanded(q, &up, layer, tables, page_size, scale)
        }
        (q, _) => {
            let attended = absorbed(up.absorbed(q), &up, layer, tables, page_size, scale);
            up.expand_results(attended)
        }
    }
}

/// Weighted sums of latents: `q [tokens, heads, latent + rope]` → `[tokens, heads, latent]`.
fn absorbed(
    q: Tensor<3>,
    up: &UpProjection,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let ([_, heads, width], dtype) = (q.dims(), q.dtype());
    let [tiles, size] = tables.tiles.tokens.dims();
    // Keys `[N, R, latent + rope]`, shared by all heads: heads are rows of one product.
    let rows = layer.latents().gather(slots_of_tiles(tables, page_size), dtype);
    let rows = rows.reshape([tiles as i32, -1, width as i32]);
    let q = to_tiles(q, tables).reshape([tiles, size * heads, width]);
    let scores = product(q, rows.clone().swap_dims(1, 2)).cast(DType::F32) * scale;
    let hidden = hidden(tables, page_size);
    let [_, _, cached] = hidden.dims();
    let shape = [tiles, size, heads, cached];
    let hidden = hidden.unsqueeze_dim::<4>(2).expand(shape);
    let weights = softmax(scores.reshape(shape).mask_fill(hidden, HIDDEN), 3).cast(dtype);
    let latents = rows.slice(s![.., .., 0..up.latent()]);
    let attended = product(weights.reshape([tiles, size * heads, cached]), latents);
    to_tokens(attended.reshape([tiles * size, heads, up.latent()]), tables)
}

/// `[tokens, heads, value]`
fn expanded(
    q: MlaQueries,
    up: &UpProjection,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let dtype = q.nope.dtype();
    let [tiles, size] = tables.tiles.tokens.dims();
    let [sequences, _] = tables.block_tables.dims();
    let [_, heads, rope] = q.rope.dims();
    // Each sequence's rows are expanded once, however many tiles meet them.
    let rows = layer.latents().gather(slots(tables.block_tables.clone(), page_size), dtype);
    let [gathered, _] = rows.dims();
    let (k_nope, values) = up.expand(rows.clone().slice(s![.., 0..up.latent()]));
    let k_rope = rows.slice(s![.., up.latent()..]).reshape([gathered, 1, rope]);
    let keys = Tensor::cat(vec![k_nope, k_rope.expand([gathered, heads, rope])], 2);
    let of_tiles = |x: Tensor<3>| {
        let [_, _, width] = x.dims();
        let x = x.reshape([sequences, gathered / sequences, heads, width]);
        x.select(0, tables.tiles.sequences.clone())
    };
    // [N, heads, nope + rope, R] and [N, heads, R, value]
    let keys = of_tiles(keys).permute([0, 2, 3, 1]);
    let values = of_tiles(values).permute([0, 2, 1, 3]);

    let q = to_tiles(Tensor::cat(vec![q.nope, q.rope], 2), tables);
    let [_, _, width] = q.dims();
    let q = q.reshape([tiles, size, heads, width]).swap_dims(1, 2);
    let scores = product(q, keys).cast(DType::F32) * scale;
    let hidden = hidden(tables, page_size).unsqueeze_dim::<4>(1).expand(scores.dims());
    let weights = softmax(scores.mask_fill(hidden, HIDDEN), 3).cast(dtype);
    let attended = product(weights, values).swap_dims(1, 2);
    to_tokens(attended.reshape([(tiles * size) as i32, heads as i32, -1]), tables)
}

/// The matrix that keys and values are expanded with.
pub(super) struct UpProjection {
    /// `[heads * (nope + value), latent]`
    pub(super) matrix: Tensor<2>,
    pub(super) heads: usize,
    pub(super) nope: usize,
}

impl UpProjection {
    pub(super) fn new(q: &PreparedQueries, kv_b: &Weight) -> Self {
        let ([_, heads, _], nope, dtype) = match q {
            PreparedQueries::Heads(q) => (q.nope.dims(), q.nope.dims()[2], q.nope.dtype()),
            PreparedQueries::Absorbed { queries, nope } => (queries.dims(), *nope, queries.dtype()),
        };
        UpProjection { matrix: kv_b.dense(dtype), heads, nope }
    }

    /// Queries of latents and rotated keys, `[tokens, heads, latent + rope]`.
    pub(super) fn absorbed(&self, q: PreparedQueries) -> Tensor<3> {
        match q {
            PreparedQueries::Heads(q) => self.absorb(q),
            PreparedQueries::Absorbed { queries, .. } => queries,
        }
    }

    /// `W_UK`, `[heads, nope, latent]`
    fn keys(&self) -> Tensor<3> {
        self.of_heads().slice(s![.., 0..self.nope, ..])
    }

    /// `W_UV`, `[heads, value, latent]`
    fn values(&self) -> Tensor<3> {
        self.of_heads().slice(s![.., self.nope.., ..])
    }

    /// Queries of latents and rotated keys, `[tokens, heads, latent + rope]`.
    pub(super) fn absorb(&self, q: MlaQueries) -> Tensor<3> {
        let latent = product(q.nope.swap_dims(0, 1), self.keys()).swap_dims(0, 1);
        Tensor::cat(vec![latent, q.rope], 2)
    }

    /// Weighted sums of latents → of values: `[tokens, heads, latent]` → `[tokens, heads, value]`.
    pub(super) fn expand_results(&self, sums: Tensor<3>) -> Tensor<3> {
        product(sums.swap_dims(0, 1), self.values().swap_dims(1, 2)).swap_dims(0, 1)
    }

    /// Keys `[rows, heads, nope]` and values `[rows, heads, value]` of `latents [rows, latent]`.
    fn expand(&self, latents: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let [rows, _] = latents.dims();
        let both = product(latents, self.matrix.clone().transpose());
        let both = both.reshape([rows, self.heads, self.width()]);
        (both.clone().slice(s![.., .., 0..self.nope]), both.slice(s![.., .., self.nope..]))
    }

    fn of_heads(&self) -> Tensor<3> {
        self.matrix.clone().reshape([self.heads, self.width(), self.latent()])
    }

    pub(super) fn latent(&self) -> usize {
        let [_, latent] = self.matrix.dims();
        latent
    }

    /// Expanded values of a head.
    fn width(&self) -> usize {
        let [out, _] = self.matrix.dims();
        out / self.heads
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{KvPool, KvSpec};
    use crate::ops::case::{Inputs, PagedCase};

    /// One token and two cached rows, one head, worked out by hand.
    #[test]
    fn follows_the_formula() {
        let device = Device::flex();
        let spec = KvSpec::Mla { layers: 1, latent: 2, rope: 2, page_size: 2 };
        let case = PagedCase::new(&[[1, 1]], 2, &device);
        let mut pool = KvPool::new(spec, case.pages, DType::F32, &device);
        // Latents (1, 2) and (3, 4), rotated keys (0, 1) and (1, 0).
        let rows = Tensor::from_data([[1.0, 2.0, 0.0, 1.0], [3.0, 4.0, 1.0, 0.0]], &device);
        pool.layer(0).write_latents(rows, case.slots);
        // W_UK = (0.5, -0.5), W_UV = (1, 1) and (0, 2).
        let kv_b = Tensor::from_data([[0.5, -0.5], [1.0, 1.0], [0.0, 2.0]], &device);
        let kv_b = Weight::Dense(kv_b);
        let q = MlaQueries {
            nope: Tensor::from_data([[[2.0]]], &device),
            rope: Tensor::from_data([[[1.0, 3.0]]], &device),
        };
        // Keys -0.5 and -0.5, so scores (-1 + 3) / 2 and (-1 + 1) / 2; values (3, 4) and (7, 8).
        let (first, second) = (1f32.exp(), 1f32);
        let share = first / (first + second);
        let want = [3.0 * share + 7.0 * (1.0 - share), 4.0 * share + 8.0 * (1.0 - share)];
        for form in [MlaForm::Absorbed, MlaForm::Expanded] {
            let out = mla_attention(q.clone(), &kv_b, pool.layer(0), &case.tables, 2, 0.5, form);
            assert_eq!(out.dims(), [1, 1, 2]);
            let got = out.to_data().try_to_vec_as::<f32>().unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{form:?}: {got} {want}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Any dimensions, any ragged sequences over scattered pages.
        #[test]
        fn both_forms_agree(
            sequences in prop::collection::vec([0..20_usize, 1..9_usize], 1..4),
            widths in (1..13_usize, 1..5_usize, 1..17_usize, 1..33_usize),
            heads in 1..5_usize,
            page_size in 1..9_usize,
            seed: u64,
        ) {
            assert_forms_agree(&sequences, widths, heads, page_size, seed)?;
        }
    }

    /// `widths` are those of `nope`, half of `rope`, the values and the latent.
    fn assert_forms_agree(
        sequences: &[[usize; 2]],
        (nope, pairs, value, latent): (usize, usize, usize, usize),
        heads: usize,
        page_size: usize,
        seed: u64,
    ) -> Result<(), TestCaseError> {
        let device = Device::flex();
        let mut inputs = Inputs::new(seed, &device);
        let case = PagedCase::new(sequences, page_size, &device);
        let rope = 2 * pairs;
        let spec = KvSpec::Mla { layers: 1, latent, rope, page_size };
        let mut pool = KvPool::new(spec, case.pages, DType::F32, &device);
        let [rows] = case.slots.dims();
        pool.layer(0).write_latents(inputs.floats([rows, latent + rope], 1.0), case.slots);
        let [tokens] = case.tables.positions.dims();
        let q = MlaQueries {
            nope: inputs.floats([tokens, heads, nope], 1.0),
            rope: inputs.floats([tokens, heads, rope], 1.0),
        };
        let kv_b = Weight::Dense(inputs.floats([heads * (nope + value), latent], 1.0));
        let (layer, scale) = (pool.layer(0), ((nope + rope) as f64).powf(-0.5));
        let attend = |form| {
            let q = q.clone();
            let out = mla_attention(q, &kv_b, layer, &case.tables, page_size, scale, form);
            inputs.values(out)
        };
        let (absorbed, expanded) = (attend(MlaForm::Absorbed), attend(MlaForm::Expanded));
        prop_assert_eq!(absorbed.len(), tokens * heads * value);
        for (a, e) in absorbed.iter().zip(&expanded) {
            prop_assert!((a - e).abs() < 1e-4 * e.abs().max(1.0), "{a} {e}");
        }
        Ok(())
    }
}
