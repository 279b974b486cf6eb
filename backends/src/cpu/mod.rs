//! What the kernels for the CPU are made of: vectors of the widest instructions that there are, weight
//! matrices as they lie in memory, and their products with tokens.
//!
//! - `isa`: which instructions this CPU has
//! - `vector`: a vector of f32 values, in each instruction set
//! - `matrix`: rows of weights in their formats
//! - `tokens`: the other side of a product
//! - `dot`, `codes`: products with few tokens, which read each weight once
//! - `tiles`, `amx`: products with many, and `blocks`, how they are cut
//! - `integers`: both, for quantised weights
//! - `attend`: attention of some queries to a tile of rows
//! - `math`: functions of rows of values
//! - `product`: whole products, on all threads
//! - `memory`: large pages, and lines of the cache that are asked for early
//! - `threads`: work in pieces

#![expect(unsafe_code, reason = "instructions of one CPU or another")]

#[cfg(target_arch = "x86_64")]
mod amx;
mod attend;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod codes;
mod dot;
#[cfg(target_arch = "x86_64")]
mod integers;
mod isa;
pub(crate) mod math;
mod matrix;
mod memory;
mod product;
#[cfg(test)]
mod tests;
mod threads;
mod tiles;
mod tokens;
mod vector;

pub(crate) use attend::{LANES, Next, Queries, Seen, State, TILE, Tile};
pub use isa::Isa;
pub(crate) use matrix::{CHUNK, Kind, Matrix, Values, bytes, widen};
pub(crate) use memory::prefetch_far;
pub use memory::use_large_pages;
pub(crate) use product::{mix, product};
pub(crate) use threads::{Shared, in_pieces};
pub(crate) use tokens::{Sink, Tokens};
