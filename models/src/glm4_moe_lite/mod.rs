//! GLM-4.7-Flash (transformers' `Glm4MoeLiteForCausalLM`).

mod config;
mod inventory;

pub use config::Config;
