//! How products with many tokens are cut: panels of rows, and groups of tokens whose values lie side by
//! side in vectors.

use super::matrix::Matrix;
use super::threads::in_pieces;
use super::tokens::Sink;

/// Rows of weights that are widened at a time.
pub(super) const PANEL: usize = 48;
/// Values of tokens from which a second thread pays for laying them out.
const PARALLEL: usize = 1 << 17;

/// Tokens in groups of as many as some vectors hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    pub(super) count: usize,
    /// Tokens of a vector.
    pub(super) lanes: usize,
    /// Vectors of a group; the last one may have fewer.
    pub(super) vectors: usize,
}

/// Some tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) first: usize,
    pub(super) count: usize,
    /// Their count in whole vectors.
    pub(super) padded: usize,
}

impl Blocks {
    /// Tokens of all groups in whole vectors.
    pub(super) fn padded(self) -> usize {
        self.count.next_multiple_of(self.lanes)
    }

    /// A group begins where all before it are full.
    pub(super) fn groups(self) -> impl Iterator<Item = Group> {
        let most = self.lanes * self.vectors;
        (0..self.count).step_by(most).map(move |first| {
            let count = most.min(self.count - first);
            Group { first, count, padded: count.next_multiple_of(self.lanes) }
        })
    }

    /// How many groups there are.
    pub(super) fn count_of_groups(self) -> usize {
        self.count.div_ceil(self.lanes * self.vectors)
    }

    /// Calls `work` with each group of tokens of a width, on all threads where that pays.
    pub(super) fn each(self, width: usize, work: impl Fn(Group) + Sync) {
        let groups: Vec<Group> = self.groups().collect();
        in_pieces(groups.len(), self.count * width > PARALLEL, |index| work(groups[index]));
    }
}

/// Calls `add` with some rows of a matrix at a time and the zeros that it adds their products to, for
/// each group `[rows, padded]`, and writes these.
///
/// # Safety
/// As [`super::Tokens::times`].
pub(super) unsafe fn in_panels(
    blocks: Blocks,
    matrix: &Matrix<'_>,
    sink: Sink<'_>,
    mut add: impl FnMut(&Matrix<'_>, &mut [f32]),
) {
    let mut sums = vec![0.0; PANEL.min(matrix.rows()) * blocks.padded()];
    for start in (0..matrix.rows()).step_by(PANEL) {
        let panel = matrix.part(start..matrix.rows().min(start + PANEL));
        sums.fill(0.0);
        add(&panel, &mut sums);
        for group in blocks.groups() {
            let sums = &sums[group.first * panel.rows()..];
            for token in 0..group.count {
                let place = sink.first + (group.first + token) * sink.stride + start;
                // SAFETY: the caller's.
                let out = unsafe { sink.out.part(place, panel.rows()) };
                let sums = sums[token..].iter().step_by(group.padded);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum);
            }
        }
    }
}
