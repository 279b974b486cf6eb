//! What attention in tiles is compiled for, and what follows from it.
//!
//! A block is in shared memory as it is in the cache, in words of two values whose rows are four words
//! longer than a multiple of 32: no two lanes meet in a bank.

use super::attend::Attend;

/// Units of a cube, in planes of 32.
pub(super) const UNITS: usize = 256;
pub(super) const PLANES: usize = 8;
/// Queries and cached rows of a product, and values that are multiplied.
pub(super) const DOWN: usize = 16;
pub(super) const ACROSS: usize = 8;
pub(super) const DEPTH: usize = 16;
/// Words of that.
pub(super) const WORDS: usize = DEPTH / 2;

/// What attention in tiles is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tiled {
    pub(crate) attend: Attend,
    /// Queries of a cube: 16, 32 or 64.
    pub(crate) queries: usize,
    /// Cached rows of a block: 32 or 64.
    pub(crate) rows: usize,
    /// Whether a value is the first part of its key.
    pub(crate) values_in_keys: bool,
    /// Whether words hold bf16, and not f16.
    pub(crate) bf16: bool,
}

impl Tiled {
    /// Whether shapes are multiples of those of the products.
    pub(super) fn fits(attend: &Attend) -> bool {
        let [first, second] = attend.key_parts;
        first.is_multiple_of(DEPTH)
            && second.is_multiple_of(DEPTH)
            && attend.value_width.is_multiple_of(PLANES * 2 * ACROSS)
    }

    fn pitch(width: usize) -> usize {
        (width / 2).next_multiple_of(32) + 4
    }

    pub(super) fn key_pitch(&self) -> usize {
        Self::pitch(self.attend.key_width())
    }

    pub(super) fn value_pitch(&self) -> usize {
        match self.values_in_keys {
            true => self.key_pitch(),
            false => Self::pitch(self.attend.value_width),
        }
    }

    /// Words of a block of values; one where they are those of the keys.
    pub(super) fn value_words(&self) -> usize {
        if self.values_in_keys { 1 } else { self.rows * self.value_pitch() }
    }

    pub(super) fn score_pitch(&self) -> usize {
        self.rows + 8
    }

    pub(super) fn weight_pitch(&self) -> usize {
        self.rows / 2 + 4
    }

    /// Bytes of shared memory of a cube.
    pub(super) fn shared_bytes(&self) -> usize {
        let keys = (self.queries + self.rows) * self.key_pitch();
        let weights = self.queries * (self.score_pitch() + self.weight_pitch() + 1);
        4 * (keys + self.value_words() + weights + self.rows)
    }

    /// What instructions call the dtype of words.
    pub(super) fn kind(&self) -> &'static str {
        if self.bf16 { "bf16" } else { "f16" }
    }

    /// Planes side by side over the rows of a block, for scores.
    pub(super) fn wide(&self) -> usize {
        PLANES / self.queries.div_ceil(DOWN).min(2)
    }

    /// Products of a plane along the queries and along the rows, for scores.
    pub(super) fn of_plane(&self) -> (usize, usize) {
        let down = self.queries / DOWN / (PLANES / self.wide());
        (down, (self.rows / ACROSS / self.wide()).max(1))
    }

    /// Pairs of products of a plane along the columns of a value.
    pub(super) fn pairs(&self) -> usize {
        self.attend.value_width / PLANES / (2 * ACROSS)
    }

    /// Units that share a query's scores.
    pub(super) fn share(&self) -> usize {
        UNITS / self.queries
    }
}
