//! E4M3 codes in kernels.

use cubecl::prelude::*;

/// The values of the four codes of a word, the first in the lowest byte.
///
/// Exact for all codes but the two NaNs, which become ±480; checkpoints hold none (the loader
/// refuses them). `native` where the device converts E4M3 itself.
#[cube]
pub(crate) fn decode_word(word: u32, #[comptime] native: bool) -> Vector<f32, Const<4>> {
    if comptime![native] {
        Vector::<f32, Const<4>>::cast_from(Vector::<cubecl::e4m3, Const<4>>::reinterpret(word))
    } else {
        let mut values = Vector::<f32, Const<4>>::empty();
        #[unroll]
        for index in 0..4usize {
            values.insert(index, decode_code((word >> (8 * index as u32)) & 0xFFu32));
        }
        values
    }
}

/// The value of a code, without a denormal float on the way: devices may take those for zero.
#[cube]
fn decode_code(code: u32) -> f32 {
    let magnitude = code & 0x7Fu32;
    // Exponents of E4M3 have the bias 7, those of f32 127.
    let normal = f32::reinterpret((magnitude << 20u32) + 0x3C00_0000u32);
    let subnormal = f32::cast_from(magnitude) * 0.001953125f32;
    let value = select(magnitude < 8u32, subnormal, normal);
    select(code >= 128u32, -value, value)
}

/// The code of the nearest value, ties to even, as [`crate::fp8::encode`] does it for what is not
/// NaN.
#[cube]
pub(crate) fn encode_code(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let magnitude = f32::reinterpret(bits & 0x7FFF_FFFFu32);
    let magnitude = select(magnitude > 448.0f32, 448.0f32, magnitude);
    let held = u32::reinterpret(magnitude);
    // From 2⁻⁶ on: another bias, and rounding away 20 bits of the mantissa.
    let normal = (held + 0x7_FFFFu32 + ((held >> 20u32) & 1u32) - 0x3C00_0000u32) >> 20u32;
    // Below: the distance of two neighbours is 2⁻⁹, as it is of the floats from 2¹⁴ on.
    let subnormal = u32::reinterpret(magnitude + 16_384.0f32) - 0x4680_0000u32;
    let code = select(magnitude < 0.015625f32, subnormal, normal);
    ((bits >> 24u32) & 0x80u32) | code
}
