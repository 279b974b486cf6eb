//! What attention is compiled for, and what follows from it.

use cubecl::prelude::*;

use crate::cube::PageLayout;

/// Cached rows of a block.
pub(crate) const BLOCK: usize = 64;
/// Most parts that the rows of a sequence are split into.
pub(crate) const MOST_SPLITS: usize = 64;
/// Units that share a block and up to five fours of queries.
pub(crate) const TEAM: usize = 128;

pub(super) type Four = Vector<f32, Const<4>>;

/// What attention is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attend {
    /// Query heads of a KV head.
    pub(crate) group: usize,
    pub(crate) kv_heads: usize,
    /// Values of a key, in one or two parts that have a scale each.
    pub(crate) key_parts: [usize; 2],
    /// Values of a result.
    pub(crate) value_width: usize,
    pub(crate) keys: PageLayout,
    pub(crate) values: PageLayout,
    pub(crate) page_size: usize,
    /// Teams of a cube, each with queries of its own.
    pub(crate) teams: usize,
    /// Fours of queries of a team.
    pub(crate) fours: usize,
    /// Units that look at neighbouring rows.
    pub(crate) lanes: usize,
    /// Units of a plane that sums, or 0.
    pub(crate) plane: usize,
    /// Whether a cube meets all rows of its tokens and so gives their result.
    pub(crate) whole: bool,
    /// `scale` of the scores, by its bits.
    pub(crate) scale: u32,
}

impl Attend {
    pub(crate) fn units(&self) -> usize {
        self.teams * TEAM
    }

    /// Fours of queries of a cube.
    pub(crate) fn all_fours(&self) -> usize {
        self.teams * self.fours
    }

    /// Queries of a cube.
    pub(crate) fn queries(&self) -> usize {
        4 * self.all_fours()
    }

    /// Groups of lanes in a team; each takes a part of a key's columns.
    pub(super) fn slices(&self) -> usize {
        TEAM / self.lanes
    }

    /// Rows of a block that a unit scores.
    pub(super) fn rows(&self) -> usize {
        BLOCK / self.lanes
    }

    pub(super) fn key_width(&self) -> usize {
        self.key_parts[0] + self.key_parts[1]
    }

    /// Elements of a key.
    pub(super) fn key_elements(&self) -> usize {
        self.key_parts.iter().map(|width| self.keys.elements(*width)).sum()
    }

    /// Values that the elements of the first part of a key hold, padding included.
    pub(super) fn first_padded(&self) -> usize {
        self.keys.elements(self.key_parts[0]) * self.keys.values()
    }

    /// Values that a key's elements hold, padding included.
    pub(crate) fn padded(&self) -> usize {
        self.key_elements() * self.keys.values()
    }

    /// Scales of a row's keys for each KV head.
    pub(super) fn key_scales(&self) -> usize {
        if self.key_parts[1] > 0 { 2 } else { 1 }
    }

    /// Vectors of `size` elements of a result's values.
    pub(super) fn value_vectors(&self, size: usize) -> usize {
        self.values.elements(self.value_width).div_ceil(size)
    }

    /// Units of a team side by side over vectors of `size` values; the others take other rows.
    pub(super) fn columns(&self, size: usize) -> usize {
        self.value_vectors(size).next_power_of_two().clamp(TEAM / BLOCK, TEAM)
    }

    /// Vectors of `size` elements that a unit sums.
    pub(super) fn vectors_of_unit(&self, size: usize) -> usize {
        self.value_vectors(size).div_ceil(self.columns(size))
    }

    /// Fours of queries of each group of lanes.
    pub(super) fn fours_of_lanes(&self) -> usize {
        self.fours.div_ceil(self.slices())
    }

    /// Bytes of shared memory of a cube.
    pub(crate) fn shared_bytes(&self) -> usize {
        let fours = (self.padded() + self.slices() * BLOCK + 1) * self.all_fours();
        let others = 2 * BLOCK + if self.plane == self.lanes { 1 } else { self.units() };
        16 * fours + 4 * others
    }

    pub(super) fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }
}
