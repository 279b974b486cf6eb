//! GLM-4.7-Flash (transformers' `Glm4MoeLiteForCausalLM`).

mod config;

pub use config::Config;
