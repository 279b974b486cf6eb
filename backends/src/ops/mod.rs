//! The operations of the graph. Each lives in its own folder: `mod.rs` documents it, its
//! `reference.rs` is the specification in plain Burn ops, its `cases.rs` the inputs it is tried
//! on. Kernels come beside the reference.

pub mod case;
mod columns;
mod embedding;
#[cfg(feature = "cpu")]
mod flex;
mod gqa_write;
mod kv_write;
mod linear;
mod mla_attention;
mod mla_write;
mod moe_experts;
mod moe_route;
mod paged_attention;
mod pages;
mod path;
mod product;
mod quantise_fp8;
mod rms_norm;
mod rope;
mod sample;
mod swiglu;

pub use columns::columns;
pub use embedding::embedding;
pub use gqa_write::{HeadNorms, gqa_write};
pub use kv_write::kv_write;
pub use linear::{Normed, linear, norm_linear, wide_linear};
pub use mla_attention::{MlaForm, MlaQueries, PreparedQueries, mla_attention};
pub use mla_write::{MlaProjected, mla_write};
#[cfg(feature = "cpu")]
pub use moe_experts::ExpertMatrices;
pub use moe_experts::{ExpertGroup, ExpertWeights, moe_experts, norm_moe_experts};
pub use moe_route::{Routed, Routing, moe_route};
pub use paged_attention::paged_attention;
pub use path::{OpPath, Path, paths, takes_kernels, use_reference_only, widens_weights};
pub use quantise_fp8::{Fp8Activations, quantise_fp8};
pub use rms_norm::{Norm, add_rms_norm, rms_norm};
pub use rope::{RopeOrder, RotaryTable, Rotation, rope};
pub use sample::{
    Draw, Logprobs, NEVER, Penalties, allow, argmax, logprobs, penalise, sample, verify,
};
pub use swiglu::{swiglu, swiglu_joint};

/// Every op, in alphabetical order.
pub const KERNELS: &[&case::Kernel] = &[
    &embedding::cases::KERNEL,
    &gqa_write::cases::KERNEL,
    &kv_write::cases::KERNEL,
    &linear::cases::KERNEL,
    &mla_attention::cases::KERNEL,
    &mla_write::cases::KERNEL,
    &moe_experts::cases::KERNEL,
    &moe_route::cases::KERNEL,
    &paged_attention::cases::KERNEL,
    &quantise_fp8::cases::KERNEL,
    &rms_norm::cases::KERNEL,
    &rope::cases::KERNEL,
    &sample::cases::KERNEL,
    &swiglu::cases::KERNEL,
];
