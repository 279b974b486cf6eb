use burn::tensor::Tensor;
use glm_backends::kv::KvLayer;
use glm_backends::ops::{self, MlaForm, MlaProjected, Normed, Rotation};
use glm_backends::weight::Weight;

use super::Config;
use crate::forward::{BatchShape, ForwardBatch};
use crate::nn::{JointLinear, Linear, Residual, RmsNorm};
use crate::weights::{LoadError, OnLoad, Split, Weights};

/// The norms of the latents do not take `rms_norm_eps`: transformers leaves them at the default of
/// its norm, and the authors' model runs with that.
const LATENT_EPS: f64 = 1e-6;

/// Multi-head latent attention ([DeepSeek-V2 2024](https://arxiv.org/abs/2405.04434), section
/// 2.1): what a token leaves in the cache is a latent `c` and one rotated key for all heads.
///
/// With several ranks each holds some of the heads and all of the latents, and the result is a
/// partial sum.
#[derive(Debug)]
pub(super) struct Attention {
    query: Query,
    latent_norm: RmsNorm,
    /// `W_UK` and `W_UV` of each head in turn
    up: Weight,
    output: Linear,
    widths: Widths,
    scale: f64,
}

impl Attention {
    pub(super) fn load(w: &Weights<'_>, config: &Config) -> Result<Self, LoadError> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let Config { kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, .. } = *config;
        let values = [hidden, heads * v_head_dim];
        // A rank holds whole heads, which the rows alone do not tell.
        let held = w.rank().range(heads);
        let held = held.ok_or_else(|| w.indivisible("o_proj.weight", &values))?.len();

        let up = [heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank];
        let up = w.at("kv_b_proj").weight("weight", up, Split::Column, OnLoad::Quantise)?;
        Ok(Self {
            query: Query::load(w, config)?,
            latent_norm: RmsNorm::load(&w.at("kv_a_layernorm"), kv_lora_rank, LATENT_EPS)?,
            up,
            output: Linear::load(&w.at("o_proj"), values, Split::Row)?,
            widths: Widths {
                heads: held,
                nope: qk_nope_head_dim,
                rope: qk_rope_head_dim,
                value: v_head_dim,
                latent: kv_lora_rank,
            },
            scale: (config.qk_head_dim() as f64).powf(-0.5),
        })
    }

    /// Of the norm of a stream, `[tokens, hidden]`; stores the tokens' latents first.
    pub(super) fn forward(
        &self,
        stream: &mut Residual,
        norm: &RmsNorm,
        rotation: &Rotation,
        batch: &ForwardBatch,
        kv: &mut KvLayer,
    ) -> Tensor<2> {
        let (q, down) = self.query.forward(stream, norm);
        let latent_norm = self.latent_norm.op();
        let heads = self.widths.heads;
        let projected = MlaProjected { q, down, norm: latent_norm, heads };
        let (page_size, slots) = (batch.page_size(), batch.slots.clone());
        let form = self.widths.cheaper_form(batch.shape(), page_size);
        let q = ops::mla_write(projected, &self.up, rotation, kv, slots, form);
        let attended =
            ops::mla_attention(q, &self.up, kv, &batch.tables, page_size, self.scale, form);
        self.output.forward(attended.flatten(1, 2))
    }
}

/// Projections of the input: the queries of this rank's heads, and what a token leaves in the cache.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each layer")]
enum Query {
    /// `W_Q` of each head in turn, and `W_DKV` and `W_KR`
    Direct { up: Linear, down: Linear },
    /// Queries from a latent of their own: `W_DQ` and with it `W_DKV` and `W_KR`, the norm of the
    /// latent, and `W_UQ` and `W_QR` of each head in turn
    Latent { down: JointLinear, norm: RmsNorm, rank: usize, up: Linear },
}

impl Query {
    fn load(w: &Weights<'_>, config: &Config) -> Result<Self, LoadError> {
        let (hidden, out) = (config.hidden_size, config.num_attention_heads * config.qk_head_dim());
        let cached = config.kv_lora_rank + config.qk_rope_head_dim;
        let Some(rank) = config.q_lora_rank else {
            return Ok(Self::Direct {
                up: Linear::load(&w.at("q_proj"), [out, hidden], Split::Column)?,
                down: Linear::load(
                    &w.at("kv_a_proj_with_mqa"),
                    [cached, hidden],
                    Split::Replicated,
                )?,
            });
        };
        let parts = [("q_a_proj", rank), ("kv_a_proj_with_mqa", cached)];
        Ok(Self::Latent {
            down: JointLinear::load(w, &parts, hidden, Split::Replicated, false)?,
            norm: RmsNorm::load(&w.at("q_a_layernorm"), rank, LATENT_EPS)?,
            rank,
            up: Linear::load(&w.at("q_b_proj"), [out, rank], Split::Column)?,
        })
    }

    /// Of the norm of a stream: queries `[tokens, heads * (nope + rope)]` and what is cached, before its
    /// norm and rotation, `[tokens, latent + rope]`.
    fn forward(&self, stream: &mut Residual, norm: &RmsNorm) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Direct { up, down } => {
                let x = stream.norm(norm);
                (up.forward(x.clone()), down.forward(x))
            }
            Self::Latent { down, norm: latent_norm, rank, up } => {
                let joint = down.of_stream(stream, norm);
                let [_, width] = joint.dims();
                let x = ops::columns(joint.clone(), 0..*rank);
                let (_, q) = up.normed(Normed { x, added: None, norm: latent_norm.op() });
                (q, ops::columns(joint, *rank..width))
            }
        }
    }
}

/// Heads of this rank and widths of a head.
#[derive(Debug, Clone, Copy)]
struct Widths {
    heads: usize,
    nope: usize,
    rope: usize,
    value: usize,
    latent: usize,
}

impl Widths {
    /// The form of attention with fewer multiply-adds for a step of this shape. With `T` tokens
    /// over `S` sequences of `R` cached rows, and `P` places in the tiles of the tokens, a head takes
    ///
    /// ```text
    /// absorbed:  T (nope + value) latent  +  P R (2 latent + rope)
    /// expanded:  S R (nope + value) latent  +  P R (nope + rope + value)
    /// ```
    ///
    /// The first terms apply `W_UK` and `W_UV`, to the queries and results or to every cached row;
    /// the second ones are the scores and the weighted sums.
    fn cheaper_form(&self, shape: BatchShape, page_size: usize) -> MlaForm {
        let BatchShape { tokens, sequences, pages } = shape;
        let (rows, matrix) = (pages * page_size, (self.nope + self.value) * self.latent);
        let pairs = shape.tiles().places() * rows;
        let absorbed = tokens * matrix + pairs * (2 * self.latent + self.rope);
        let expanded = sequences * rows * matrix + pairs * (self.nope + self.rope + self.value);
        match absorbed <= expanded {
            true => MlaForm::Absorbed,
            false => MlaForm::Expanded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLASH: Widths = Widths { heads: 20, nope: 192, rope: 64, value: 256, latent: 512 };

    /// Pages of 64 tokens. Absorbed costs 229,376 a token and 1,088 a pair, expanded 229,376 a row
    /// and 512 a pair.
    #[test]
    fn the_form_of_flash_follows_the_shape_of_the_step() {
        for (tokens, sequences, pages, wanted) in [
            // Decode, of one sequence and of many, from the first page on.
            (1, 1, 1, MlaForm::Absorbed),
            (1, 1, 2048, MlaForm::Absorbed),
            (32, 32, 16, MlaForm::Absorbed),
            // A prompt in one chunk; equally many tokens and rows.
            (64, 1, 1, MlaForm::Expanded),
            (256, 1, 4, MlaForm::Expanded),
            // Chunks of 256 pay for the expansion up to 256 / (1 - 256 * 576 / 229376) = 717 rows.
            (256, 1, 11, MlaForm::Expanded),
            (256, 1, 12, MlaForm::Absorbed),
            (256, 1, 64, MlaForm::Absorbed),
            // From 229376 / 576 = 398 tokens on, expansion pays at any length.
            (384, 1, 2048, MlaForm::Absorbed),
            (448, 1, 2048, MlaForm::Expanded),
        ] {
            let shape = BatchShape { tokens, sequences, pages };
            assert_eq!(FLASH.cheaper_form(shape, 64), wanted, "{shape:?}");
        }
    }
}
