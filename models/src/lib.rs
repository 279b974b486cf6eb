//! The papers in Rust: configuration, graph, weight names.
//!
//! This crate knows how a model computes. It receives a [`forward::ForwardBatch`] and a
//! [`glm_backends::kv::KvPool`] and does not know who fills them.
//!
//! - [`config`]: `config.json`, by `model_type`
//! - [`inventory`]: every tensor of a checkpoint, by the configuration
//! - [`plan`]: what a model needs of a machine
//! - [`weights`]: tensors by name, checked and divided over ranks
//! - [`forward`]: the inputs of a step
//! - [`chat`]: the markers of a conversation
//! - [`model`]: the families as one closed enum
//! - [`glm4_moe`]: GLM-4.5, 4.5-Air, 4.6, 4.7
//! - [`glm4_moe_lite`]: GLM-4.7-Flash, with latent attention
//! - [`trace`]: intermediate values by name

pub mod chat;
pub mod config;
pub mod forward;
pub mod glm4_moe;
pub mod glm4_moe_lite;
pub mod inventory;
pub mod model;
mod nn;
pub mod plan;
pub mod trace;
pub mod weights;
