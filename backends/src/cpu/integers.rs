//! Products of quantised weights with tokens as integers, by AVX2: tokens have 16 bits there and a scale
//! for each chunk, which leaves an error of 2⁻¹⁶ of the largest value of the chunk. A sum of products
//! over a chunk is exact: 32 · 128 · 32767 is less than 2³¹.

use std::arch::x86_64::*;
use std::borrow::Cow;

use super::matrix::{CHUNK, Kind, Matrix};
use super::memory::{ahead, prefetch};
use super::tokens::{Sink, chunks};
use super::vector::{Avx2, Vector};

mod few;
mod many;

pub(super) use few::{MOST, Rows};
pub(super) use many::Groups;

/// f32 or i32 values of a vector.
const LANES: usize = 8;
/// Largest integer of a token.
const LARGEST: f32 = 32767.0;

/// Whether these kernels take such a matrix.
pub(super) fn takes(matrix: &Matrix<'_>) -> bool {
    matches!(matrix.kind(), Kind::Q8 | Kind::Q4)
}

/// Writes the chunks of a row as integers, and their scales.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn quantise_row(x: &[f32], into: &mut [i16], scales: &mut [f32]) {
    let places = into.as_chunks_mut::<CHUNK>().0.iter_mut().zip(scales);
    for (x, (into, scale)) in x.as_chunks::<CHUNK>().0.iter().zip(places) {
        *scale = quantise(x, into);
    }
}

/// Writes a chunk as integers and returns their scale: NaN where a value is not finite.
#[inline(always)]
fn quantise(x: &[f32; CHUNK], into: &mut [i16; CHUNK]) -> f32 {
    let mut largest = [0f32; LANES];
    let mut finite = true;
    for some in x.as_chunks::<LANES>().0 {
        for (largest, x) in largest.iter_mut().zip(some) {
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
            finite &= x.is_finite();
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    if !finite {
        return f32::NAN;
    }
    // A scale below the smallest normal number would lose its bits.
    let scale = (largest / LARGEST).max(f32::MIN_POSITIVE);
    for (into, x) in into.iter_mut().zip(x) {
        *into = (x / scale).round_ties_even() as i16;
    }
    scale
}
