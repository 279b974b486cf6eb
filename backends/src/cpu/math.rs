//! Functions of f32 values that the compiler makes vectors of.

use super::isa::{Isa, dispatch};
use super::vector::Vector;

/// `exp(x)` for `x` from -87 to 88, what is outside as at the border, within 2 units in the last place:
/// the exponential of the rest after whole powers of two, as a Taylor polynomial of degree 7.
#[inline(always)]
pub(crate) fn exponential(x: f32) -> f32 {
    /// Adding it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN stays NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let tail = 1.0 / 120.0 + rest * (1.0 / 720.0 + rest * (1.0 / 5040.0));
    let tail = 0.5 + rest * (1.0 / 6.0 + rest * (1.0 / 24.0 + rest * tail));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (1.0 + rest * (1.0 + rest * tail)) * f32::from_bits(exponent)
}

/// `up = silu(gate) * up`, value by value.
pub(crate) fn swiglu(isa: Isa, gate: &[f32], up: &mut [f32]) {
    // SAFETY: `Isa::current` gives what there is.
    unsafe { dispatch!(isa, swiglu_of(gate: &[f32], up: &mut [f32])) }
}

/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn swiglu_of<V: Vector>(gate: &[f32], up: &mut [f32]) {
    for (gate, up) in gate.iter().zip(up) {
        *up *= gate / (1.0 + exponential(-gate));
    }
}

/// `into = x / sqrt(mean(x²) + eps) * weight` of one row.
pub(crate) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, into: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == into.len(), "equal widths");
    // SAFETY: `Isa::current` gives what there is, and the widths are equal.
    unsafe { dispatch!(isa, rms_norm_of(x: &[f32], weight: &[f32], eps: f32, into: &mut [f32])) }
}

/// # Safety
/// The CPU has the instructions, and all are as long as `x`.
#[inline(always)]
unsafe fn rms_norm_of<V: Vector>(x: &[f32], weight: &[f32], eps: f32, into: &mut [f32]) {
    let whole = x.len() - x.len() % V::LANES;
    // SAFETY: vectors before `whole` are within the rows.
    unsafe {
        let mut sums = V::zero();
        for index in (0..whole).step_by(V::LANES) {
            let x = V::load(x.as_ptr().add(index));
            sums = x.mul_add(x, sums);
        }
        let rest: f32 = x[whole..].iter().map(|x| x * x).sum();
        let mean = (sums.sum() + rest) / x.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((into, x), weight) in into.iter_mut().zip(x).zip(weight) {
            *into = x * scale * weight;
        }
    }
}

/// `sum += x * factor`, value by value.
pub(crate) fn add_scaled(isa: Isa, sum: &mut [f32], x: &[f32], factor: f32) {
    // SAFETY: `Isa::current` gives what there is.
    unsafe { dispatch!(isa, add_scaled_of(sum: &mut [f32], x: &[f32], factor: f32)) }
}

/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn add_scaled_of<V: Vector>(sum: &mut [f32], x: &[f32], factor: f32) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for step in -86_999..88_000 {
            let x = step as f32 * 1e-3;
            let (got, want) = (exponential(x), x.exp());
            assert!((got - want).abs() <= 2.5e-7 * want, "{x}: {got} {want}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(f32::NEG_INFINITY) < 1e-37);
        assert!(exponential(f32::INFINITY) > 1e38);
        assert!(exponential(f32::NAN).is_nan());
    }

    #[test]
    fn rows_are_normed_and_gated_by_every_instruction_set() {
        let x: Vec<f32> = (0..37).map(|index| index as f32 * 0.3 - 5.0).collect();
        let weight: Vec<f32> = (0..37).map(|index| 1.0 + index as f32 * 0.01).collect();
        let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / 37.0;
        for isa in Isa::available() {
            let (mut normed, mut gated) = (vec![0.0; 37], weight.clone());
            rms_norm(isa, &x, &weight, 1e-5, &mut normed);
            swiglu(isa, &x, &mut gated);
            for index in 0..37 {
                let (x, weight) = (f64::from(x[index]), f64::from(weight[index]));
                let norm = x / (mean + 1e-5).sqrt() * weight;
                assert!((f64::from(normed[index]) - norm).abs() < 1e-6, "{isa:?} {index}");
                let gate = x / (1.0 + (-x).exp()) * weight;
                assert!((f64::from(gated[index]) - gate).abs() < 2e-6, "{isa:?} {index}");
            }
        }
    }
}
