use half::{bf16, f16};

use super::Vector;

/// Eight values, for the compiler to put where it can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, make: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| make(self.0[lane], other.0[lane])))
    }

    /// The values of `N` bytes each.
    ///
    /// # Safety
    /// They can be read.
    #[inline(always)]
    unsafe fn read<const N: usize>(from: *const u8, make: impl Fn([u8; N]) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| {
            // SAFETY: the caller's.
            make(unsafe { from.cast::<[u8; N]>().add(lane).read_unaligned() })
        }))
    }
}

// SAFETY: each method reads and writes eight values.
unsafe impl Vector for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // Not fused: without the instruction that is a call.
        self.zip(other, |a, b| a * b).zip(sum, |product, sum| product + sum)
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + b) + (c + d)) + ((e + f) + (g + h))
    }

    #[inline(always)]
    unsafe fn bf16_pair(from: *const u8) -> [Self; 2] {
        // SAFETY: the caller's.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() }.map(u32::from_le);
        let low = words.map(|word| f32::from_bits(word << 16));
        let high = words.map(|word| f32::from_bits(word & 0xffff_0000));
        [Portable(low), Portable(high)]
    }

    #[inline(always)]
    unsafe fn f16(from: *const u8) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::read(from, |bytes| f16::from_le_bytes(bytes).to_f32()) }
    }

    #[inline(always)]
    unsafe fn e4m3(from: *const u8) -> Self {
        // As f16 bits, but without its conversion: those of f32, times what is missing there.
        let value = |[code]: [u8; 1]| {
            let code = u32::from(code);
            let bits = f32::from_bits((code & 0x80) << 24 | (code & 0x7f) << 20);
            bits * f32::from_bits((127 + 112) << 23)
        };
        // SAFETY: the caller's.
        unsafe { Self::read(from, value) }
    }

    #[inline(always)]
    unsafe fn i8(from: *const u8) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::read(from, |[byte]: [u8; 1]| f32::from(byte.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn i4_pair(from: *const u8) -> [Self; 2] {
        let value = |bits: u8| f32::from(bits) - 8.0;
        // SAFETY: the caller's.
        unsafe {
            [
                Self::read(from, |[byte]: [u8; 1]| value(byte & 15)),
                Self::read(from, |[byte]: [u8; 1]| value(byte >> 4)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn split(self, high: *mut u16, low: *mut u16) {
        let rounded = self.0.map(bf16::from_f32);
        let rest: [bf16; 8] =
            std::array::from_fn(|lane| bf16::from_f32(self.0[lane] - rounded[lane].to_f32()));
        // SAFETY: the caller's.
        unsafe {
            high.cast::<[u16; 8]>().write_unaligned(rounded.map(bf16::to_bits));
            low.cast::<[u16; 8]>().write_unaligned(rest.map(bf16::to_bits));
        }
    }
}
