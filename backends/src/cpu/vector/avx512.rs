use std::arch::x86_64::*;

use super::Vector;

/// Sixteen values in a register of AVX-512.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512);

/// A vector of the same integers.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn all(value: u32) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_set1_epi32(value.cast_signed()) }
}

// SAFETY: each method reads and writes sixteen values.
unsafe impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's, as for all below.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            // Quarters of two vectors beside each other, then of all four.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b0100_0100>(a.0, b.0),
                _mm512_shuffle_f32x4::<0b1110_1110>(a.0, b.0),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b0100_0100>(c.0, d.0),
                _mm512_shuffle_f32x4::<0b1110_1110>(c.0, d.0),
            );
            let all = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b1000_1000>(ab, cd),
                _mm512_shuffle_f32x4::<0b1101_1101>(ab, cd),
            );
            let pairs = _mm512_add_ps(all, _mm512_permute_ps::<0b1011_0001>(all));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b0100_1110>(pairs));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let four = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, sums));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), four);
            out
        }
    }

    #[inline(always)]
    unsafe fn bf16_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let words = _mm512_loadu_si512(from.cast());
            let even = _mm512_slli_epi32::<16>(words);
            let odd = _mm512_and_si512(words, all(0xffff_0000));
            [Avx512(_mm512_castsi512_ps(even)), Avx512(_mm512_castsi512_ps(odd))]
        }
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            // The code's bits where f16 has exponent and mantissa; the sign fills all bits above them.
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
            let kept = _mm256_set1_epi16(0xbf80_u16.cast_signed());
            let bits = _mm256_and_si256(_mm256_slli_epi16::<7>(codes), kept);
            Avx512(_mm512_cvtph_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn i8(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
        }
    }

    #[inline(always)]
    unsafe fn i4_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let values = _mm512_setr_ps(
                -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,
                7.0,
            );
            // The permutation looks at the lowest four bits only.
            let low = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm512_srli_epi32::<4>(low);
            [
                Avx512(_mm512_permutexvar_ps(low, values)),
                Avx512(_mm512_permutexvar_ps(high, values)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn split(self, high: *mut u16, low: *mut u16) {
        // SAFETY: see above.
        unsafe {
            let rounded = rounded(self.0);
            let rest = _mm512_sub_ps(self.0, _mm512_castsi512_ps(rounded));
            for (bits, to) in [(rounded, high), (self::rounded(rest), low)] {
                let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
                _mm256_storeu_si256(to.cast(), halves);
            }
        }
    }
}

/// Bits of the nearest bf16 values, ties to even, as f32; of NaN, those of a NaN.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn rounded(values: __m512) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), all(1));
        let sum = _mm512_add_epi32(_mm512_add_epi32(bits, all(0x7fff)), last);
        let kept = _mm512_and_si512(sum, all(0xffff_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        _mm512_mask_mov_epi32(kept, nan, all(0x7fc0_0000))
    }
}
