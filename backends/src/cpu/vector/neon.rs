use std::arch::aarch64::*;

use half::f16;

use super::Vector;

/// Eight values in two registers of NEON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon([float32x4_t; 2]);

/// Two registers of integers as floats of the same bits.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn bits(words: [uint32x4_t; 2]) -> Neon {
    // SAFETY: the caller's.
    Neon(words.map(|words| unsafe { vreinterpretq_f32_u32(words) }))
}

/// Eight signed 16-bit integers as floats.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn floats(values: int16x8_t) -> Neon {
    // SAFETY: the caller's.
    unsafe {
        Neon([
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))),
            vcvtq_f32_s32(vmovl_s16(vget_high_s16(values))),
        ])
    }
}

// SAFETY: each method reads and writes eight values.
unsafe impl Vector for Neon {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's, as for all below.
        Neon(unsafe { [vdupq_n_f32(value); 2] })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Neon(unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(to, self.0[0]);
            vst1q_f32(to.add(4), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: see above.
        Neon(unsafe { [vaddq_f32(self.0[0], other.0[0]), vaddq_f32(self.0[1], other.0[1])] })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: see above.
        Neon(unsafe { [vmulq_f32(self.0[0], other.0[0]), vmulq_f32(self.0[1], other.0[1])] })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Neon(unsafe {
            [vfmaq_f32(sum.0[0], self.0[0], other.0[0]), vfmaq_f32(sum.0[1], self.0[1], other.0[1])]
        })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(vaddq_f32(self.0[0], self.0[1])) }
    }

    #[inline(always)]
    unsafe fn bf16_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let from: *const u32 = from.cast();
            let words = [vld1q_u32(from), vld1q_u32(from.add(4))];
            let even = words.map(|words| vshlq_n_u32::<16>(words));
            let odd = words.map(|words| vandq_u32(words, vdupq_n_u32(0xffff_0000)));
            [bits(even), bits(odd)]
        }
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let values = from.cast::<[u16; 8]>().read_unaligned();
            Self::load(values.map(|bits| f16::from_bits(bits).to_f32()).as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = vmovl_s8(vld1_s8(from.cast()));
            let halves = [vget_low_s16(codes), vget_high_s16(codes)];
            // Where f32 has exponent and mantissa, times what is missing there to 2⁻⁸.
            let missing = Self::splat(f32::from_bits((127 + 112) << 23));
            let values = bits(halves.map(|codes| {
                let words = vreinterpretq_u32_s32(vshlq_n_s32::<20>(vmovl_s16(codes)));
                vandq_u32(words, vdupq_n_u32(0x87f0_0000))
            }));
            values.times(missing)
        }
    }

    #[inline(always)]
    unsafe fn i8(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { floats(vmovl_s8(vld1_s8(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn i4_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1_u8(from);
            let value = |codes: uint8x8_t| {
                floats(vmovl_s8(vsub_s8(vreinterpret_s8_u8(codes), vdup_n_s8(8))))
            };
            [value(vand_u8(bytes, vdup_n_u8(15))), value(vshr_n_u8::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn split(self, high: *mut u16, low: *mut u16) {
        let mut values = [0.0; 8];
        // SAFETY: see above.
        unsafe {
            self.store(values.as_mut_ptr());
            super::Portable::load(values.as_ptr()).split(high, low);
        }
    }
}
