use std::arch::x86_64::*;

use super::Vector;

/// Eight values in a register of AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(pub(in crate::cpu) __m256);

/// A vector of the same integers.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn all(value: u32) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_epi32(value.cast_signed()) }
}

/// Integers as floats.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn floats(values: __m256i) -> Avx2 {
    // SAFETY: the caller's.
    Avx2(unsafe { _mm256_cvtepi32_ps(values) })
}

// SAFETY: each method reads and writes eight values.
unsafe impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's, as for all below.
        Avx2(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Avx2(unsafe { _mm256_fmadd_ps(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four =
                _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let words = _mm256_loadu_si256(from.cast());
            let even = _mm256_slli_epi32::<16>(words);
            let odd = _mm256_and_si256(words, all(0xffff_0000));
            [Avx2(_mm256_castsi256_ps(even)), Avx2(_mm256_castsi256_ps(odd))]
        }
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            // The code's bits where f16 has exponent and mantissa; the sign fills all bits above them.
            let codes = _mm_cvtepi8_epi16(_mm_loadl_epi64(from.cast()));
            let kept = _mm_set1_epi16(0xbf80_u16.cast_signed());
            Avx2(_mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16::<7>(codes), kept)))
        }
    }

    #[inline(always)]
    unsafe fn i8(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn i4_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let low = _mm256_and_si256(bytes, all(15));
            let high = _mm256_srli_epi32::<4>(bytes);
            [floats(_mm256_sub_epi32(low, all(8))), floats(_mm256_sub_epi32(high, all(8)))]
        }
    }

    #[inline(always)]
    unsafe fn split(self, high: *mut u16, low: *mut u16) {
        // SAFETY: see above.
        unsafe {
            let rounded = rounded(self.0);
            let rest = _mm256_sub_ps(self.0, _mm256_castsi256_ps(rounded));
            for (bits, to) in [(rounded, high), (self::rounded(rest), low)] {
                let halves = _mm256_srli_epi32::<16>(bits);
                // Each half of the register is packed by itself.
                let packed = _mm256_packus_epi32(halves, halves);
                let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
            }
        }
    }
}

/// Bits of the nearest bf16 values, ties to even, as f32; of NaN, those of a NaN.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn rounded(values: __m256) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), all(1));
        let sum = _mm256_add_epi32(_mm256_add_epi32(bits, all(0x7fff)), last);
        let kept = _mm256_and_si256(sum, all(0xffff_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        _mm256_blendv_epi8(kept, all(0x7fc0_0000), nan)
    }
}
