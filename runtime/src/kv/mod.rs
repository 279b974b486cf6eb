//! Which page belongs to whom. Plain integers: where a page lies is the backends' business.
#![forbid(unsafe_code)]

mod blocks;
mod prefix;

pub(crate) use blocks::Blocks;
pub(crate) use prefix::PageHash;
