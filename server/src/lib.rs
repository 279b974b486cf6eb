//! HTTP APIs on top of the engine: the only crate that knows HTTP and wire types.
//!
//! - [`Server`]: listens, answers, stops; [`ServerConfig`]: what it is started with
//! - [`parse`]: the model's text, taken apart while it streams: thought, answer, tool calls
//! - [`client`]: a client of such APIs, for measuring
//!
//! Inside: `routes` lists what there is; `openai` and `anthropic` hold the wire forms of their APIs,
//! `plain` the small routes; `chat` is a conversation in the model's form, whatever API it came by;
//! `sampling` what they share of a request; `generate` the engine's events on their way; `grammar`
//! what an answer may look like; `access` keys; `limits` bounds.

mod access;
mod anthropic;
mod app;
mod body;
mod chat;
pub mod client;
mod config;
mod error;
mod generate;
mod grammar;
mod limits;
mod metrics;
mod openai;
mod openapi;
mod page;
pub mod parse;
mod plain;
mod routes;
mod sampling;
mod serve;
mod sse;
mod traces;
mod usage;

pub use config::ServerConfig;
pub use serve::{ServeError, Server, Shutdown};
