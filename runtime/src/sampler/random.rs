//! Random numbers by place.

/// A number in (0, 1) that depends on the seed and on the place in the answer, and on nothing else.
/// It has 23 bits, so that f32 holds it exactly and both ends stay clear.
pub(super) fn unit(seed: u64, place: usize) -> f32 {
    // SplitMix64 over the place (Steele et al. 2014), started from a scrambled seed.
    let state = mix(seed).wrapping_add((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    ((mix(state) >> 41) as f32 + 0.5) / (1u32 << 23) as f32
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_inside_and_fill_the_range() {
        let numbers: Vec<f32> = (0..20_000).map(|place| unit(7, place)).collect();
        assert!(numbers.iter().all(|unit| *unit > 0.0 && *unit < 1.0));
        let mean = numbers.iter().map(|unit| f64::from(*unit)).sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        // The extreme values of the formula.
        let scale = (1u32 << 23) as f32;
        assert!(0.5 / scale > 0.0 && (scale - 1.0 + 0.5) / scale < 1.0);
    }

    #[test]
    fn another_seed_or_place_gives_another_number() {
        assert_eq!(unit(1, 2), unit(1, 2));
        assert_ne!(unit(1, 2), unit(1, 3));
        assert_ne!(unit(1, 2), unit(2, 2));
        // A seed is no offset of the places of another one.
        assert_ne!(unit(1, 2), unit(2, 1));
    }
}
