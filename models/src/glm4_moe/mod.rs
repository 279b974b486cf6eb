//! GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7 and their base models
//! ([GLM-4.5, 2025](https://arxiv.org/abs/2508.06471); transformers' `Glm4MoeForCausalLM`).
//!
//! ```text
//! token ids ─ embed ─┬─ input norm ─ attention ─┬─(+)─┬─ post norm ─ MLP or experts ─┬─(+)─ … ─ norm ─ head
//!                    └──────────────────────────┘     └──────────────────────────────┘
//!                    └────────────────────── × num_hidden_layers ───────────────────┘
//! ```
//!
//! | weights | shape |
//! |---|---|
//! | `model.embed_tokens.weight`, `lm_head.weight` | `[vocab_size, hidden]` |
//! | `model.layers.N.{input,post_attention}_layernorm.weight`, `model.norm.weight` | `[hidden]` |
//! | `….self_attn.{q,k,v}_proj.{weight,bias}` | `[heads * head_dim, hidden]`, `[heads * head_dim]` |
//! | `….self_attn.o_proj.weight` | `[hidden, heads * head_dim]` |
//! | `….self_attn.{q,k}_norm.weight` (355B) | `[head_dim]` |
//! | `….mlp.{gate,up}_proj.weight`, `….mlp.down_proj.weight` (first layers) | `[width, hidden]`, `[hidden, width]` |
//! | `….mlp.gate.weight`, `….mlp.gate.e_score_correction_bias` | `[experts, hidden]`, `[experts]` |
//! | `….mlp.experts.E.…`, `….mlp.shared_experts.…` | as the dense ones |
//! | `model.layers.{num_hidden_layers}.{enorm,hnorm,shared_head.norm}.weight` | `[hidden]` |
//! | `model.layers.{num_hidden_layers}.eh_proj.weight` | `[hidden, 2 * hidden]` |
//! | `model.layers.{num_hidden_layers}.…` | a layer with experts; copies of embedding and head, not read |

mod attention;
mod config;
mod decoder;
mod inventory;
mod layer;
mod mtp;

pub use config::Config;
pub use decoder::Glm4Moe;
pub use mtp::Mtp;
