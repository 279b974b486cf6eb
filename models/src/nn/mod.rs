//! The leaves that the families share. Each struct is built from the weights it is named after.

mod embedding;
mod feed_forward;
mod linear;
mod mlp;
mod moe;
mod mtp;
mod norm;
mod residual;

pub(crate) use embedding::Embedding;
pub(crate) use feed_forward::FeedForward;
pub(crate) use linear::{JointLinear, Linear};
pub(crate) use mlp::Mlp;
pub(crate) use moe::{Moe, MoeShape};
pub(crate) use mtp::MtpHead;
pub(crate) use norm::RmsNorm;
pub(crate) use residual::Residual;
