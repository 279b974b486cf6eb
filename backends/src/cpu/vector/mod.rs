//! Vectors of f32 values. The kernels are written once against [`Vector`] and compiled for each
//! instruction set; see [`dispatch`](super::isa::dispatch).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// Some f32 values in a register.
///
/// # Safety
/// An implementation reads and writes no more than its methods say.
pub(crate) unsafe trait Vector: Copy {
    /// How many values.
    const LANES: usize;

    /// The same value in each lane.
    ///
    /// # Safety
    /// The CPU has the instructions, here and for all that follow.
    unsafe fn splat(value: f32) -> Self;

    /// `LANES` values, at any alignment.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes `LANES` values, at any alignment.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store(self, to: *mut f32);

    /// `self + other`
    ///
    /// # Safety
    /// As [`Vector::splat`].
    unsafe fn plus(self, other: Self) -> Self;

    /// `self * other`
    ///
    /// # Safety
    /// As [`Vector::splat`].
    unsafe fn times(self, other: Self) -> Self;

    /// `self * other + sum`
    ///
    /// # Safety
    /// As [`Vector::splat`].
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;

    /// The sum of the lanes, in a fixed order.
    ///
    /// # Safety
    /// As [`Vector::splat`].
    unsafe fn sum(self) -> f32;

    /// The sums of four vectors.
    ///
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn sums(vectors: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = vectors;
        // SAFETY: the caller's.
        unsafe { [a.sum(), b.sum(), c.sum(), d.sum()] }
    }

    /// `2 * LANES` bf16 values: those at even places, and those at odd ones.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn bf16_pair(from: *const u8) -> [Self; 2];

    /// `LANES` f16 values.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn f16(from: *const u8) -> Self;

    /// `LANES` E4M3 codes, each as its value times 2⁻⁸. NaN codes are 480.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn e4m3(from: *const u8) -> Self;

    /// `LANES` signed bytes.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn i8(from: *const u8) -> Self;

    /// `LANES` bytes: the lower four bits of each less 8, and the upper ones.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn i4_pair(from: *const u8) -> [Self; 2];

    /// Writes `LANES` values rounded to bf16, and what is left of them, rounded too. What is not finite
    /// leaves NaN.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn split(self, high: *mut u16, low: *mut u16);

    /// Zeros.
    ///
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's.
        unsafe { Self::splat(0.0) }
    }
}
