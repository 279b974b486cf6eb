//! HTTP APIs on top of the engine: the only crate that knows HTTP and wire types.
//!
//! - [`client`]: a client of such APIs, for measuring
//! - [`parse`]: the model's text, taken apart while it streams: thought and answer
//!
//! Not here yet: routes, streaming, the wire types of the APIs.

pub mod client;
pub mod parse;
