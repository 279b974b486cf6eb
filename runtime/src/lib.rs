//! Time and memory: which tokens are computed now, and where they are kept.
//!
//! - [`engine`]: a loaded model that answers requests
//! - [`request`]: what is asked, and what comes back
//! - [`load`]: a model folder, opened and checked
//! - [`hub`]: from a hub id to a model folder
//! - [`measure`]: how fast answers come
//! - [`text`]: tokenizer, chat template, text while it streams
//!
//! Inside: `placement` settles dtype and memory; `kv` and `sequence` are plain integers and know no
//! tensor; `handoff` is where threads meet; `runner` turns their plans into a step on the device;
//! `sampler` chooses the next token there.

pub mod config;
mod core;
mod draft;
pub mod engine;
pub mod error;
mod handoff;
pub mod hub;
mod kv;
pub mod load;
pub mod measure;
pub mod null;
mod output;
mod placement;
pub mod request;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
mod start;
pub mod stats;
mod step;
pub mod text;

pub use config::{
    DraftChoice, DtypeChoice, EngineConfig, Fp8Choice, KvDtypeChoice, OnPanic, QuantChoice,
};
pub use engine::{Engine, EngineLimits, EventStream, LoadProgress};
pub use error::{EngineError, Failure, RequestError};
pub use glm_models::trace::{TensorRecord, Values};
pub use request::{
    Completion, Event, Finish, MaskState, Request, SamplingParams, Timings, TokenLogprobs,
    TokenMask,
};
pub use stats::{Recording, Stats, StepSizes};
pub use step::TokenSet;
