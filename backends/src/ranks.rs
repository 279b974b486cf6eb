//! Where a model is divided over devices, and the one sum that joins the parts.

use burn::tensor::Tensor;

/// Which part of a divided model this process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    index: usize,
    count: usize,
}

impl Rank {
    /// The whole model on one device.
    pub const SINGLE: Rank = Rank { index: 0, count: 1 };

    /// Rank `index` of `count`.
    ///
    /// # Panics
    /// When `index` is not below `count`.
    pub fn new(index: usize, count: usize) -> Self {
        assert!(index < count, "rank {index} of {count}");
        Rank { index, count }
    }

    /// The range of a divided axis of `length` values that this rank holds, or `None` when
    /// `length` does not divide evenly.
    pub fn range(self, length: usize) -> Option<std::ops::Range<usize>> {
        if !length.is_multiple_of(self.count) {
            return None;
        }
        let part = length / self.count;
        Some(self.index * part..(self.index + 1) * part)
    }

    /// Number of ranks.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether this is the first rank, the one that adds what must be added once (a bias after
    /// a row-split projection).
    pub fn is_first(self) -> bool {
        self.index == 0
    }
}

/// Sum of `partial` over all ranks: the only place where the graph crosses devices. A layer
/// calls it twice, after the output projection and after the experts.
///
/// Shapes: `partial [tokens, hidden]` → `[tokens, hidden]`. With one rank it is the identity.
///
/// # Panics
/// With more than one rank: no collective is built in yet, and nothing loads such a model.
pub fn sum_over_ranks(partial: Tensor<2>, rank: Rank) -> Tensor<2> {
    assert_eq!(rank.count, 1, "no collective for {} ranks", rank.count);
    partial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_axis_without_overlap() {
        let parts: Vec<_> = (0..4).map(|i| Rank::new(i, 4).range(12).unwrap()).collect();
        assert_eq!(parts, [0..3, 3..6, 6..9, 9..12]);
        assert_eq!(Rank::new(0, 5).range(12), None);
        assert_eq!(Rank::SINGLE.range(7), Some(0..7));
    }
}
