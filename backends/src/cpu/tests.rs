//! Every kernel by every instruction set that this CPU has, against sums in f64.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

/// Weights of one kind, and their values.
struct Held {
    kind: Kind,
    floats: Vec<f32>,
    halves: Vec<f16>,
    brains: Vec<bf16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    half_scales: Vec<f16>,
    group: usize,
    shape: [usize; 2],
}

const KINDS: [Kind; 6] = [Kind::F32, Kind::F16, Kind::Bf16, Kind::E4m3, Kind::Q8, Kind::Q4];

fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A sign, an exponent of four bits with a bias of 7 and three bits of mantissa; no infinity.
fn value_of_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

impl Held {
    /// Random weights; those of E4M3 with a scale for each `group` columns.
    fn random(kind: Kind, shape: [usize; 2], group: usize, mut state: u64) -> Held {
        let [rows, width] = shape;
        let mut next = || uniform(&mut state);
        let groups = width.div_ceil(32);
        let floats: Vec<f32> = (0..rows * width).map(|_| next()).collect();
        let bytes = match kind {
            Kind::E4m3 => rows * width.next_multiple_of(4),
            Kind::Q8 => rows * groups * 32,
            Kind::Q4 => rows * groups * 16,
            _ => 0,
        };
        let byte = |value: f32| ((value + 1.0) * 127.9) as u8;
        let codes = (0..bytes).map(|_| byte(next())).map(|code| match kind {
            // No NaN.
            Kind::E4m3 if code & 0x7f == 0x7f => code & 0x80,
            _ => code,
        });
        let codes = codes.collect();
        let scales = (0..rows * width.div_ceil(group)).map(|_| next() * 0.1).collect();
        Held {
            kind,
            halves: floats.iter().map(|value| f16::from_f32(*value)).collect(),
            brains: floats.iter().map(|value| bf16::from_f32(*value)).collect(),
            floats,
            codes,
            scales,
            half_scales: (0..rows * groups).map(|_| f16::from_f32(next() * 0.1)).collect(),
            group,
            shape,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        let (codes, scales) = (&self.codes[..], &self.half_scales[..]);
        let values = match self.kind {
            Kind::F32 => Values::F32(&self.floats),
            Kind::F16 => Values::F16(&self.halves),
            Kind::Bf16 => Values::Bf16(&self.brains),
            Kind::E4m3 => Values::E4m3 { codes, scales: &self.scales, group: self.group },
            Kind::Q8 => Values::Q8 { codes, scales },
            Kind::Q4 => Values::Q4 { codes, scales },
        };
        Matrix::new(values, self.shape)
    }

    /// By the definitions of the formats.
    fn value(&self, row: usize, column: usize) -> f64 {
        let [_, width] = self.shape;
        let groups = width.div_ceil(32);
        let place = row * width + column;
        let scale = || f64::from(self.half_scales[row * groups + column / 32].to_f32());
        match self.kind {
            Kind::F32 => f64::from(self.floats[place]),
            Kind::F16 => f64::from(self.halves[place].to_f32()),
            Kind::Bf16 => f64::from(self.brains[place].to_f32()),
            Kind::E4m3 => {
                let code = self.codes[row * width.next_multiple_of(4) + column];
                let scale = self.scales[row * width.div_ceil(self.group) + column / self.group];
                f64::from(value_of_e4m3(code)) * f64::from(scale)
            }
            Kind::Q8 => {
                let code = self.codes[row * groups * 32 + column];
                f64::from(code.cast_signed()) * scale()
            }
            Kind::Q4 => {
                let byte = self.codes[(row * groups + column / 32) * 16 + column % 16];
                let code = if column % 32 < 16 { byte & 15 } else { byte >> 4 };
                (f64::from(code) - 8.0) * scale()
            }
        }
    }
}

#[test]
fn rows_are_widened_to_their_values() {
    for kind in KINDS {
        for width in [1, 31, 32, 33, 100, 160] {
            let held = Held::random(kind, [3, width], 48, 7);
            for isa in Isa::available() {
                for row in 0..3 {
                    let mut got = vec![0.0; width];
                    held.matrix().expand(isa, row, &mut got);
                    for (column, got) in got.into_iter().enumerate() {
                        let want = held.value(row, column);
                        let most = 1e-6 * want.abs();
                        assert!((f64::from(got) - want).abs() <= most, "{isa:?} {kind:?} {width}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_code_of_e4m3_is_widened_to_its_value() {
    let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    for isa in Isa::available() {
        let mut values = vec![0.0; codes.len()];
        widen(isa, Kind::E4m3, &codes, &mut values);
        for (code, value) in codes.iter().zip(values) {
            assert_eq!(value, value_of_e4m3(*code), "{isa:?} {code:#x}");
        }
    }
}

/// The standard deviation of a product whose values are rounded to 2⁻¹⁶ of the largest in their chunk,
/// as integers are: by a share that is equally likely everywhere.
fn deviation(held: &Held, row: usize, x: &[f32]) -> f64 {
    let chunks = x.chunks(32).enumerate().map(|(chunk, x)| {
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let weights = (0..x.len()).map(|column| held.value(row, 32 * chunk + column).powi(2));
        f64::from(largest).powi(2) * weights.sum::<f64>()
    });
    (chunks.sum::<f64>() / 3.0).sqrt() / f64::from(1 << 16)
}

fn assert_products(
    kind: Kind,
    [tokens, rows, width]: [usize; 3],
    group: usize,
    mut state: u64,
) -> Result<(), TestCaseError> {
    let held = Held::random(kind, [rows, width], group, state);
    let x: Vec<f32> = (0..tokens * width).map(|_| uniform(&mut state)).collect();
    for isa in Isa::available() {
        let got = product(isa, &x, &held.matrix());
        prop_assert_eq!(got.len(), tokens * rows);
        for token in 0..tokens {
            for row in 0..rows {
                let (mut want, mut size) = (0.0, 0.0);
                for column in 0..width {
                    let product = f64::from(x[token * width + column]) * held.value(row, column);
                    want += product;
                    size += product * product;
                }
                let error = (f64::from(got[token * rows + row]) - want).abs();
                // Of the length of the products: what roundings of 16 bits add up to.
                let most = match kind {
                    Kind::Q8 | Kind::Q4 => {
                        6.0 * deviation(&held, row, &x[token * width..][..width])
                    }
                    _ => 1e-4 * size.sqrt(),
                };
                let most = most + 1e-7;
                prop_assert!(error <= most, "{isa:?} {kind:?}: {error} of {most}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Tails of rows, columns and tokens, and scales of any reach.
    #[test]
    fn products_are_those_of_the_values(
        kind in 0..KINDS.len(),
        (tokens, rows, width) in (1..70_usize, 1..70_usize, 1..400_usize),
        few: bool,
        group in prop::sample::select(vec![5, 32, 64, 128, 1000]),
        seed: u64,
    ) {
        let tokens = if few { tokens % 9 + 1 } else { tokens };
        assert_products(KINDS[kind], [tokens, rows, width], group, seed)?;
    }
}

/// Blocks of several panels and depths.
#[test]
fn large_products_are_those_of_the_values() {
    for kind in KINDS {
        assert_products(kind, [97, 130, 1100], 128, 3).unwrap();
    }
}

/// The transposed product.
#[test]
fn rows_are_mixed() {
    for kind in KINDS {
        let held = Held::random(kind, [37, 145], 145, 5);
        let x: Vec<f32> = (0..74).map(|index| index as f32 * 0.02 - 0.6).collect();
        for isa in Isa::available() {
            let mut out = vec![9.0; 2 * 145];
            let shared = Shared::new(&mut out);
            // SAFETY: one after the other.
            let into = |token: usize| unsafe { shared.part(token * 145, 145) };
            mix(isa, &held.matrix(), 2, |token| &x[token * 37..][..37], into);
            for token in 0..2 {
                for column in 0..145 {
                    let terms =
                        (0..37).map(|row| f64::from(x[token * 37 + row]) * held.value(row, column));
                    let (want, got) = (terms.sum::<f64>(), f64::from(out[token * 145 + column]));
                    assert!((got - want).abs() < 1e-4, "{isa:?} {kind:?}: {got} {want}");
                }
            }
        }
    }
}
