//! GLM-4.7-Flash: the layers of [`glm4_moe`](crate::glm4_moe) with the multi-head latent attention
//! of [DeepSeek-V2 (2024)](https://arxiv.org/abs/2405.04434) (transformers'
//! `Glm4MoeLiteForCausalLM`).
//!
//! ```text
//! token ids ─ embed ─┬─ input norm ─ attention ─┬─(+)─┬─ post norm ─ MLP or experts ─┬─(+)─ … ─ norm ─ head
//!                    └──────────────────────────┘     └──────────────────────────────┘
//!                    └────────────────────── × num_hidden_layers ───────────────────┘
//!
//! attention:  x ─┬─ q_a ─ norm ─ q_b ─┬─ q_nope ──────────┐
//!                │                    └─ q_rope ─ rotate ─┤
//!                └─ kv_a ─┬─ norm ── c ───────────┬─ cache ┴─ attend (kv_b expands c) ─ o
//!                         └─ k_rope ─ rotate ─────┘
//! ```
//!
//! `nope`, `rope` and `value` are widths of a head (`qk_nope_head_dim`, `qk_rope_head_dim`,
//! `v_head_dim`); `latent` is `kv_lora_rank`. The symbols are those of the paper.
//!
//! | weights | shape | paper |
//! |---|---|---|
//! | `model.embed_tokens.weight`, `lm_head.weight` | `[vocab_size, hidden]` | |
//! | `model.layers.N.{input,post_attention}_layernorm.weight`, `model.norm.weight` | `[hidden]` | |
//! | `….self_attn.q_a_proj.weight` | `[q_lora_rank, hidden]` | `W_DQ` |
//! | `….self_attn.q_a_layernorm.weight` | `[q_lora_rank]` | |
//! | `….self_attn.q_b_proj.weight` | `[heads * (nope + rope), q_lora_rank]` | `W_UQ`, `W_QR` |
//! | `….self_attn.q_proj.weight`, where `q_lora_rank` is null | `[heads * (nope + rope), hidden]` | |
//! | `….self_attn.kv_a_proj_with_mqa.weight` | `[latent + rope, hidden]` | `W_DKV`, `W_KR` |
//! | `….self_attn.kv_a_layernorm.weight` | `[latent]` | |
//! | `….self_attn.kv_b_proj.weight` | `[heads * (nope + value), latent]` | `W_UK`, `W_UV` |
//! | `….self_attn.o_proj.weight` | `[hidden, heads * value]` | `W_O` |
//! | `….mlp.…`, `model.layers.{num_hidden_layers}.…` | as in [`glm4_moe`](crate::glm4_moe) | |

mod attention;
mod config;
mod decoder;
mod inventory;
mod layer;
mod mtp;

pub use config::Config;
pub use decoder::Glm4MoeLite;
pub use mtp::Mtp;
