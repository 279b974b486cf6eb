//! Tokens, laid out for their products with a matrix.

use std::borrow::Cow;

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::matrix::Kind;
use super::matrix::{CHUNK, Matrix};
use super::threads::Shared;
#[cfg(target_arch = "x86_64")]
use super::{amx, codes, integers};
use super::{dot, tiles};

/// Weights, and multiply-adds, from which a second thread pays: it takes some 20 µs to wake.
const PARALLEL: (usize, usize) = (1 << 18, 1 << 21);

/// Tokens `[count, width]`, laid out for matrices of one kind.
#[derive(Debug)]
pub(crate) struct Tokens {
    isa: Isa,
    count: usize,
    width: usize,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// A row for each, filled up with zeros: sums along the rows of the matrix.
    Rows(dot::Rows),
    /// The same for E4M3 codes.
    #[cfg(target_arch = "x86_64")]
    Codes(codes::Rows),
    /// The same as integers.
    #[cfg(target_arch = "x86_64")]
    Integers(integers::Rows),
    /// The same in two bytes each.
    #[cfg(target_arch = "x86_64")]
    Bytes(integers::ByteRows),
    /// A value of several tokens in a vector, multiplied with one weight at a time.
    SideBySide(tiles::Groups),
    /// The same as integers.
    #[cfg(target_arch = "x86_64")]
    IntegersSideBySide(integers::Groups),
    /// Tiles of bf16.
    #[cfg(target_arch = "x86_64")]
    Tiles(amx::Tiles),
}

/// Where products go: of token `t` with row `r` to `first + t * stride + r`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sink<'a> {
    pub(crate) out: Shared<'a, f32>,
    pub(crate) first: usize,
    pub(crate) stride: usize,
}

impl Tokens {
    /// Lays out `x [count, width]` for products with rows like those of `matrix`.
    pub(crate) fn new(isa: Isa, x: &[f32], matrix: &Matrix<'_>) -> Self {
        let width = matrix.width();
        Self::of_rows(isa, x.len() / width, |row| Cow::Borrowed(&x[row * width..][..width]), matrix)
    }

    /// The same for tokens that are fetched one by one.
    pub(crate) fn of_rows<'a>(
        isa: Isa,
        count: usize,
        row: impl Fn(usize) -> Cow<'a, [f32]> + Sync,
        matrix: &Matrix<'_>,
    ) -> Self {
        let width = matrix.width();
        let layout = match matrix.has_whole_groups() {
            false => None,
            true => Self::fast(isa, count, &row, matrix),
        };
        let layout = layout
            .unwrap_or_else(|| Layout::SideBySide(tiles::Groups::new(isa, count, width, &row)));
        Tokens { isa, count, width, layout }
    }

    /// What is made for so few tokens, or for the CPU.
    fn fast<'a>(
        isa: Isa,
        count: usize,
        row: &(impl Fn(usize) -> Cow<'a, [f32]> + Sync),
        matrix: &Matrix<'_>,
    ) -> Option<Layout> {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Vnni && count < codes::most(isa) && codes::takes(matrix) {
            return Some(Layout::Codes(codes::Rows::new(count, row, matrix)));
        }
        #[cfg(target_arch = "x86_64")]
        if integers::takes(matrix) {
            match isa {
                Isa::Vnni | Isa::Amx if count < integers::most(isa) => {
                    return Some(Layout::Bytes(integers::ByteRows::new(count, row, matrix)));
                }
                Isa::Avx2 | Isa::Avx512 if count < integers::most(isa) => {
                    return Some(Layout::Integers(integers::Rows::new(count, row, matrix)));
                }
                // Without VNNI, vectors of 512 bits multiply as many floats.
                Isa::Avx2 | Isa::Vnni => {
                    let groups = integers::Groups::new(isa, count, matrix.width(), row);
                    return Some(Layout::IntegersSideBySide(groups));
                }
                _ => {}
            }
        }
        if count < dot::most(isa) {
            return Some(Layout::Rows(dot::Rows::new(isa, count, row, matrix)));
        }
        // f32 is more than two bf16 values hold.
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx && matrix.kind() != Kind::F32 {
            return Some(Layout::Tiles(amx::Tiles::new(isa, count, matrix.width(), row)));
        }
        None
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether several threads are faster at multiplying them with so many rows.
    pub(crate) fn want_threads(&self, rows: usize) -> bool {
        let weights = rows * self.width;
        weights >= PARALLEL.0 || weights * self.count >= PARALLEL.1
    }

    /// Rows that are worth a piece of work of its own.
    pub(crate) fn rows_of_piece(&self) -> usize {
        match &self.layout {
            // Some 256 KiB of bf16.
            #[cfg(target_arch = "x86_64")]
            Layout::Codes(_) | Layout::Integers(_) | Layout::Bytes(_) => {
                ((1 << 18) / self.width.max(1)).clamp(8, 256).next_multiple_of(8)
            }
            Layout::Rows(_) => ((1 << 17) / self.width.max(1)).clamp(8, 256).next_multiple_of(8),
            Layout::SideBySide(_) => 48,
            #[cfg(target_arch = "x86_64")]
            Layout::IntegersSideBySide(_) => 48,
            #[cfg(target_arch = "x86_64")]
            Layout::Tiles(tokens) => tokens.rows_of_piece(),
        }
    }

    /// Multiplies them with all rows of a matrix, on this thread. Each product is summed by itself, in
    /// an order that depends on the width, the format and on whether there are few tokens.
    ///
    /// # Safety
    /// Nobody else reads or writes the places that the sink names.
    ///
    /// # Panics
    /// For a matrix of another width, and places past the end.
    pub(crate) unsafe fn times(&self, matrix: &Matrix<'_>, sink: Sink<'_>) {
        assert_eq!(matrix.width(), self.width, "columns of a matrix");
        if self.count == 0 || matrix.rows() == 0 {
            return;
        }
        let last = sink.first + (self.count - 1) * sink.stride + matrix.rows();
        // SAFETY: the caller's. All places are before the last one, which is looked at here.
        unsafe {
            sink.out.part(last - 1, 1);
            match &self.layout {
                Layout::Rows(rows) => rows.times(self.isa, matrix, sink),
                #[cfg(target_arch = "x86_64")]
                Layout::Codes(rows) => rows.times(matrix, sink),
                #[cfg(target_arch = "x86_64")]
                Layout::Integers(rows) => rows.times(matrix, sink),
                #[cfg(target_arch = "x86_64")]
                Layout::Bytes(rows) => rows.times(matrix, sink),
                Layout::SideBySide(groups) => groups.times(self.isa, matrix, sink),
                #[cfg(target_arch = "x86_64")]
                Layout::IntegersSideBySide(groups) => groups.times(matrix, sink),
                #[cfg(target_arch = "x86_64")]
                Layout::Tiles(tiles) => tiles.times(self.isa, matrix, sink),
            }
        }
    }
}

/// Width in whole chunks.
pub(super) fn chunks(width: usize) -> usize {
    width.div_ceil(CHUNK)
}
