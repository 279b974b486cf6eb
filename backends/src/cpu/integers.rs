//! Products of quantised weights with tokens as integers: tokens have 16 bits there and a scale for each
//! chunk, which leaves an error of 2⁻¹⁶ of the largest value of the chunk. A sum of products over a chunk
//! is exact: 32 · 128 · 32767 is less than 2³¹.
//!
//! - `few`: few tokens, by AVX2
//! - `bytes`: few tokens, by VNNI
//! - `many`: many tokens, by either

use std::arch::x86_64::*;
use std::borrow::Cow;

use super::isa::Isa;
use super::matrix::{CHUNK, Kind, Matrix};
use super::memory::{ahead, prefetch};
use super::tokens::{Sink, chunks};
use super::vector::{Avx2, Vector};

mod bytes;
mod few;
mod many;

pub(super) use bytes::ByteRows;
pub(super) use few::Rows;
pub(super) use many::Groups;

/// f32 or i32 values of a vector.
const LANES: usize = 8;
/// Largest integer of a token.
const LARGEST: f32 = 32767.0;

/// Tokens from which layouts for many are faster.
pub(super) fn most(isa: Isa) -> usize {
    if isa == Isa::Vnni { 17 } else { 9 }
}

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

/// The same for one chunk.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn quantise_chunk(x: &[f32; CHUNK], into: &mut [i16; CHUNK]) -> f32 {
    quantise(x, into)
}

/// Writes a chunk as integers and returns their scale: NaN where a value is not finite.
#[inline(always)]
fn quantise(x: &[f32; CHUNK], into: &mut [i16; CHUNK]) -> f32 {
    /// Added to a number, it leaves the nearest integer in the last bits.
    const ROUND: f32 = (3 << 22) as f32;
    let largest = largest(x);
    if !largest.is_finite() {
        return f32::NAN;
    }
    // A scale below the smallest normal number would lose its bits.
    let scale = (largest / LARGEST).max(f32::MIN_POSITIVE);
    let inverse = 1.0 / scale;
    for (into, x) in into.iter_mut().zip(x) {
        *into = (x * inverse + ROUND).to_bits() as i16;
    }
    scale
}

/// The largest magnitude in a chunk; not a finite one where a value is not.
#[inline(always)]
pub(super) fn largest(x: &[f32; CHUNK]) -> f32 {
    // The bits of magnitudes have their order, with infinity and NaN above all numbers.
    let magnitudes = x.iter().map(|x| x.to_bits() & (u32::MAX >> 1));
    f32::from_bits(magnitudes.fold(0, u32::max))
}
