//! How fast answers come: made-up requests, when their tokens came, and how that compares with what
//! the device can do.
//!
//! - [`Timeline`], [`Summary`]: one request, many requests
//! - [`drive`]: a number of streams at once against an engine
//! - [`Usage`]: what an engine's steps had to read and multiply, and where their time went
//! - [`Prompts`]: prompts that share nothing

mod drive;
mod prompts;
mod timeline;
mod usage;

pub use drive::{Driven, drive};
pub use prompts::Prompts;
pub use timeline::{Goal, Percentiles, Summary, Timeline};
pub use usage::{Parts, Usage};
