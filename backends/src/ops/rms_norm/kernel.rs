use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::{max_of_lanes, sum_of_lanes};
use crate::fp8::MAX;
use crate::ops::quantise_fp8::kernel::nearest;
use crate::ops::quantise_fp8::reference::LEAST_SCALE;

/// One cube a row: `out = norm(x)`, or that as values of E4M3 and a scale for the row.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn rms_norm_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    scales: &mut [f32],
    rows: u32,
    eps: f32,
    #[comptime] width: usize,
    #[comptime] stride: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] quantises: bool,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value().comptime();
    let vectors = comptime![width / size];
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let first = row * vectors;
    let start = row * comptime![stride / size];
    let mut square = 0.0f32;
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            let value = Vector::<f32, N>::cast_from(x[start + index]);
            square += sum_of_squares(value);
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let inverse = inverse_root(sum_of_lanes(square, &mut shared, units, plane), width, eps);
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            out[first + index] = normed(x[start + index], weight[index], inverse);
        }
    }
    if comptime![quantises] {
        quantise(out, scales, row, first, &mut shared, vectors, units, plane);
    }
}

/// One cube a row: `sum = x + added`, `out = norm(sum)`, or that as values of E4M3 and a scale for the
/// row.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn add_rms_norm_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    added: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    sum: &mut [Vector<F, N>],
    out: &mut [Vector<F, N>],
    scales: &mut [f32],
    rows: u32,
    eps: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] quantises: bool,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value().comptime();
    let vectors = comptime![width / size];
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let first = row * vectors;
    let mut square = 0.0f32;
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            // In f32, because not every device adds what it stores.
            let left = Vector::<f32, N>::cast_from(x[first + index]);
            let right = Vector::<f32, N>::cast_from(added[first + index]);
            let both = Vector::<F, N>::cast_from(left + right);
            sum[first + index] = both;
            let value = Vector::<f32, N>::cast_from(both);
            square += sum_of_squares(value);
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let inverse = inverse_root(sum_of_lanes(square, &mut shared, units, plane), width, eps);
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            out[first + index] = normed(sum[first + index], weight[index], inverse);
        }
    }
    if comptime![quantises] {
        quantise(out, scales, row, first, &mut shared, vectors, units, plane);
    }
}

/// A row to values of E4M3, in place: each unit what it has written itself.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the state of a kernel")]
fn quantise<F: Float, N: Size>(
    values: &mut [Vector<F, N>],
    scales: &mut [f32],
    row: usize,
    first: usize,
    shared: &mut Shared<[f32]>,
    #[comptime] vectors: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
) {
    let mut most = 0.0f32;
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            let value = Vector::<f32, N>::cast_from(values[first + index]);
            #[unroll]
            for part in 0..N::value() {
                most = max(most, f32::abs(value.extract(part)));
            }
        }
    }
    let largest = max_of_lanes(most, shared, units, plane);
    let scale = max(largest / comptime![MAX], f32::new(LEAST_SCALE));
    if UNIT_POS == 0 {
        scales[row] = scale;
    }
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + UNIT_POS as usize;
        if index < vectors {
            let mut value = Vector::<f32, N>::cast_from(values[first + index]);
            #[unroll]
            for part in 0..N::value() {
                value.insert(part, nearest(value.extract(part) / scale));
            }
            values[first + index] = Vector::<F, N>::cast_from(value);
        }
    }
}

/// A loop, because CubeCL 0.11 does not divide `vector_sum` where vectors are longer than those of the
/// device, as eight of f16 are in SPIR-V.
#[cube]
fn sum_of_squares<N: Size>(value: Vector<f32, N>) -> f32 {
    let squares = value * value;
    let mut sum = 0.0f32;
    #[unroll]
    for part in 0..N::value() {
        sum += squares.extract(part);
    }
    sum
}

/// `1 / sqrt(square / width + eps)`
#[cube]
fn inverse_root(square: f32, #[comptime] width: usize, eps: f32) -> f32 {
    1.0f32 / f32::sqrt(square / comptime![width as f32] + eps)
}

/// The normed values are rounded before the weight is multiplied.
#[cube]
fn normed<F: Float, N: Size>(x: Vector<F, N>, weight: Vector<F, N>, inverse: f32) -> Vector<F, N> {
    let wide = Vector::<f32, N>::cast_from(x) * Vector::<f32, N>::new(inverse);
    let rounded = Vector::<f32, N>::cast_from(Vector::<F, N>::cast_from(wide));
    Vector::<F, N>::cast_from(rounded * Vector::<f32, N>::cast_from(weight))
}
