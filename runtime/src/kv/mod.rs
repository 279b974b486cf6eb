//! Which page belongs to whom. Plain integers: where a page lies is the backends' business.

mod blocks;

pub(crate) use blocks::Blocks;
