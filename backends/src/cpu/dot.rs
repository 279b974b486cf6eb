//! Products with few tokens: each weight is read and widened once, and summed along its row.

use std::borrow::Cow;

use super::isa::{Isa, dispatch};
use super::matrix::{CHUNK, E4M3, Kind, Matrix, Scales};
use super::memory::{ahead, prefetch};
use super::tokens::{Sink, chunks};
use super::vector::Vector;

/// Tokens from which other layouts are faster.
pub(super) fn most(isa: Isa) -> usize {
    if isa == Isa::Amx { 5 } else { 17 }
}

/// Rows at a time, for several tokens. One token takes them one by one: memory is read fastest in the
/// order in which it lies.
const ROWS: usize = 4;
/// Sums of a row with one token, to which its chunks are added in turn: an addition takes as long as
/// several chunks.
const CHAINS: usize = 4;

/// Tokens in rows of whole chunks.
#[derive(Debug)]
pub(super) struct Rows {
    count: usize,
    chunks: usize,
    /// `[count, chunks, 32]`, in chunks for bf16 with the values at even places before the others,
    /// for each vector by itself.
    values: Vec<f32>,
}

impl Rows {
    pub(super) fn new<'a>(
        isa: Isa,
        count: usize,
        row: &impl Fn(usize) -> Cow<'a, [f32]>,
        matrix: &Matrix<'_>,
    ) -> Self {
        let (width, chunks) = (matrix.width(), chunks(matrix.width()));
        let mut values = vec![0.0; count * chunks * CHUNK];
        for (index, values) in values.chunks_exact_mut(chunks * CHUNK).enumerate() {
            values[..width].copy_from_slice(&row(index));
            if matrix.kind() == Kind::Bf16 {
                let lanes = isa.lanes();
                for pair in values.chunks_exact_mut(2 * lanes) {
                    let mut apart = [0.0; CHUNK];
                    for index in 0..lanes {
                        apart[index] = pair[2 * index];
                        apart[lanes + index] = pair[2 * index + 1];
                    }
                    pair.copy_from_slice(&apart[..2 * lanes]);
                }
            }
        }
        Rows { count, chunks, values }
    }

    /// # Safety
    /// As [`super::Tokens::times`].
    pub(super) unsafe fn times(&self, isa: Isa, matrix: &Matrix<'_>, sink: Sink<'_>) {
        let (tokens, rows) = (self, matrix);
        // SAFETY: `Isa::current` gives what there is; else the caller's.
        unsafe {
            dispatch!(isa, times(tokens: &Rows, rows: &Matrix<'_>, sink: Sink<'_>));
        }
    }

    #[inline(always)]
    fn token(&self, token: usize) -> &[f32] {
        &self.values[token * self.chunks * CHUNK..][..self.chunks * CHUNK]
    }
}

/// A way to read a chunk of weights.
trait Format {
    const KIND: Kind;
    /// What all sums are multiplied with.
    const FACTOR: f32 = 1.0;

    /// Two vectors of a chunk, and the places of the values that they are multiplied with.
    unsafe fn pair<V: Vector>(chunk: *const u8, index: usize) -> ([V; 2], [usize; 2]);
}

/// A format whose vectors follow each other.
macro_rules! format {
    ($name:ident, $kind:ident, $factor:expr, $size:literal, $read:ident) => {
        struct $name;

        impl Format for $name {
            const KIND: Kind = Kind::$kind;
            const FACTOR: f32 = $factor;

            #[inline(always)]
            unsafe fn pair<V: Vector>(chunk: *const u8, index: usize) -> ([V; 2], [usize; 2]) {
                let places = [2 * index * V::LANES, (2 * index + 1) * V::LANES];
                // SAFETY: the caller's.
                let values = unsafe {
                    [
                        V::$read(chunk.add($size * places[0]).cast()),
                        V::$read(chunk.add($size * places[1]).cast()),
                    ]
                };
                (values, places)
            }
        }
    };
}
format!(F32, F32, 1.0, 4, load);
format!(F16, F16, 1.0, 2, f16);
format!(E4m3, E4m3, E4M3, 1, e4m3);
format!(Q8, Q8, 1.0, 1, i8);

struct Bf16;

impl Format for Bf16 {
    const KIND: Kind = Kind::Bf16;

    #[inline(always)]
    unsafe fn pair<V: Vector>(chunk: *const u8, index: usize) -> ([V; 2], [usize; 2]) {
        let place = 2 * index * V::LANES;
        // SAFETY: the caller's.
        (unsafe { V::bf16_pair(chunk.add(2 * place)) }, [place, place + V::LANES])
    }
}

struct Q4;

impl Format for Q4 {
    const KIND: Kind = Kind::Q4;

    #[inline(always)]
    unsafe fn pair<V: Vector>(chunk: *const u8, index: usize) -> ([V; 2], [usize; 2]) {
        let place = index * V::LANES;
        // SAFETY: the caller's.
        (unsafe { V::i4_pair(chunk.add(place)) }, [place, CHUNK / 2 + place])
    }
}

/// # Safety
/// The CPU has the instructions, and the sink is the caller's.
#[inline(always)]
unsafe fn times<V: Vector>(tokens: &Rows, matrix: &Matrix<'_>, sink: Sink<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match matrix.kind() {
            Kind::F32 => all::<V, F32>(tokens, matrix, sink),
            Kind::F16 => all::<V, F16>(tokens, matrix, sink),
            Kind::Bf16 => all::<V, Bf16>(tokens, matrix, sink),
            Kind::E4m3 => all::<V, E4m3>(tokens, matrix, sink),
            Kind::Q8 => all::<V, Q8>(tokens, matrix, sink),
            Kind::Q4 => all::<V, Q4>(tokens, matrix, sink),
        }
    }
}

/// # Safety
/// As [`times`].
#[inline(always)]
unsafe fn all<V: Vector, F: Format>(tokens: &Rows, matrix: &Matrix<'_>, sink: Sink<'_>) {
    let rows = matrix.rows();
    let whole = if tokens.count == 1 { 0 } else { rows - rows % ROWS };
    // SAFETY: the caller's.
    unsafe {
        for first in (0..whole).step_by(ROWS) {
            some_rows::<V, F, ROWS>(tokens, matrix, first, sink);
        }
        for row in whole..rows {
            some_rows::<V, F, 1>(tokens, matrix, row, sink);
        }
    }
}

/// # Safety
/// As [`times`].
#[inline(always)]
unsafe fn some_rows<V: Vector, F: Format, const R: usize>(
    tokens: &Rows,
    matrix: &Matrix<'_>,
    first: usize,
    sink: Sink<'_>,
) {
    let mut rows = [Row::NONE; R];
    for (index, row) in rows.iter_mut().enumerate() {
        row.read::<F>(matrix, first + index);
    }
    let mut token = 0;
    // SAFETY: the caller's.
    unsafe {
        // Sums, tokens and weights that registers hold.
        while V::LANES == 16 && token + 4 <= tokens.count {
            some_tokens::<V, F, R, 4>(tokens, &rows, token, first, sink);
            token += 4;
        }
        while token + 2 <= tokens.count {
            some_tokens::<V, F, R, 2>(tokens, &rows, token, first, sink);
            token += 2;
        }
        if token < tokens.count {
            some_tokens::<V, F, R, 1>(tokens, &rows, token, first, sink);
        }
    }
}

/// A row of weights.
#[derive(Clone, Copy)]
struct Row<'a> {
    bytes: &'a [u8],
    scales: Scales<'a>,
    /// The last chunk, where it is no whole one.
    last: [u8; 4 * CHUNK],
}

impl<'a> Row<'a> {
    const NONE: Self = Row { bytes: &[], scales: Scales::One(0.0), last: [0; 4 * CHUNK] };

    #[inline(always)]
    fn read<F: Format>(&mut self, matrix: &Matrix<'a>, row: usize) {
        (self.bytes, self.scales) = (matrix.bytes(row), matrix.scales(row));
        let rest = self.bytes.len() % F::KIND.bytes();
        if rest > 0 {
            self.last[..rest].copy_from_slice(&self.bytes[self.bytes.len() - rest..]);
        }
    }
}

/// # Safety
/// As [`times`].
#[inline(always)]
unsafe fn some_tokens<V: Vector, F: Format, const R: usize, const T: usize>(
    tokens: &Rows,
    rows: &[Row<'_>; R],
    token: usize,
    first: usize,
    sink: Sink<'_>,
) {
    let x: [*const f32; T] = std::array::from_fn(|index| tokens.token(token + index).as_ptr());
    let bytes: [*const u8; R] = std::array::from_fn(|row| rows[row].bytes.as_ptr());
    let whole = rows[0].bytes.len() / F::KIND.bytes();
    let all = tokens.chunks;
    // The first tokens have read the rows already.
    let far = if token == 0 { ahead(R, rows[0].bytes.len()) } else { 0 };
    // SAFETY: the chunks are whole ones of the row and of the tokens, the last one is a copy.
    unsafe {
        let mut sums = [[V::zero(); T]; R];
        match rows[0].scales {
            Scales::One(_) => {
                run::<V, F, R, T>(&mut sums, &bytes, &x, 0..whole, far);
                if whole < all {
                    last::<V, F, R, T>(&mut sums, rows, &x, whole);
                }
            }
            Scales::Wide(_, group) => {
                for (index, start) in (0..all).step_by(group).enumerate() {
                    let mut part = [[V::zero(); T]; R];
                    let end = all.min(start + group);
                    run::<V, F, R, T>(&mut part, &bytes, &x, start..end.min(whole), far);
                    if whole < end {
                        last::<V, F, R, T>(&mut part, rows, &x, whole);
                    }
                    for (row, (sums, part)) in sums.iter_mut().zip(part).enumerate() {
                        let Scales::Wide(scales, _) = rows[row].scales else { continue };
                        let scale = V::splat(*scales.get_unchecked(index));
                        for (sum, part) in sums.iter_mut().zip(part) {
                            *sum = part.mul_add(scale, *sum);
                        }
                    }
                }
            }
            Scales::Chunk(_) => scaled::<V, F, R, T>(&mut sums, rows, &x, all, far),
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let factor = match rows[row].scales {
                Scales::One(scale) => scale * F::FACTOR,
                _ => F::FACTOR,
            };
            for (index, sum) in sums.into_iter().enumerate() {
                let place = sink.first + (token + index) * sink.stride + first + row;
                sink.out.write(place, sum.sum() * factor);
            }
        }
    }
}

/// Adds the products of some chunks.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn run<V: Vector, F: Format, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    bytes: &[*const u8; R],
    x: &[*const f32; T],
    chunks: std::ops::Range<usize>,
    far: usize,
) {
    // SAFETY: the caller's.
    let mut chains = unsafe { [[[V::zero(); T]; R]; CHAINS] };
    let mut rest = chunks;
    if R * T == 1 {
        while rest.len() >= CHAINS {
            for sums in &mut chains {
                // SAFETY: the caller's.
                unsafe { each::<V, F, R, T>(sums, bytes, x, rest.start, far) };
                rest.start += 1;
            }
        }
        let [a, b, c, d] = chains.map(|sums| sums[0][0]);
        // SAFETY: the caller's.
        sums[0][0] = unsafe { sums[0][0].plus(a.plus(b).plus(c.plus(d))) };
    }
    for chunk in rest {
        // SAFETY: the caller's.
        unsafe { each::<V, F, R, T>(sums, bytes, x, chunk, far) };
    }
}

/// Adds the products of one chunk of each row.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn each<V: Vector, F: Format, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    bytes: &[*const u8; R],
    x: &[*const f32; T],
    chunk: usize,
    far: usize,
) {
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        // SAFETY: the caller's.
        let bytes = unsafe { bytes.add(chunk * F::KIND.bytes()) };
        for line in (0..F::KIND.bytes()).step_by(64) {
            prefetch(bytes, far + line);
        }
        // SAFETY: the caller's.
        unsafe { one::<V, F, T>(sums, bytes, x, chunk) };
    }
}

/// Adds the products of one chunk of a row.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn one<V: Vector, F: Format, const T: usize>(
    sums: &mut [V; T],
    bytes: *const u8,
    x: &[*const f32; T],
    chunk: usize,
) {
    for index in 0..CHUNK / (2 * V::LANES) {
        // SAFETY: the caller's.
        unsafe {
            let (weights, places) = F::pair::<V>(bytes, index);
            for (sum, x) in sums.iter_mut().zip(x) {
                let x = x.add(chunk * CHUNK);
                *sum = weights[0].mul_add(V::load(x.add(places[0])), *sum);
                *sum = weights[1].mul_add(V::load(x.add(places[1])), *sum);
            }
        }
    }
}

/// Adds the products of the last chunk, of which the rows have a copy.
///
/// # Safety
/// The tokens have such a chunk.
#[inline(always)]
unsafe fn last<V: Vector, F: Format, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    rows: &[Row<'_>; R],
    x: &[*const f32; T],
    chunk: usize,
) {
    for (sums, row) in sums.iter_mut().zip(rows) {
        // SAFETY: the caller's.
        unsafe { one::<V, F, T>(sums, row.last.as_ptr(), x, chunk) };
    }
}

/// Adds the products of chunks that each have a scale, of rows in whole chunks.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn scaled<V: Vector, F: Format, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    rows: &[Row<'_>; R],
    x: &[*const f32; T],
    all: usize,
    far: usize,
) {
    for start in (0..all).step_by(V::LANES) {
        let count = V::LANES.min(all - start);
        // Scales of the next chunks, of as many as a vector holds.
        let mut scales = [[0.0; 16]; R];
        // SAFETY: the caller's; a vector of scales is read where there are so many.
        unsafe {
            for (row, into) in rows.iter().zip(&mut scales) {
                let Scales::Chunk(held) = row.scales else { continue };
                let held = &held[start..start + count];
                let mut few = [half::f16::ZERO; 16];
                let from = match count == V::LANES {
                    true => held.as_ptr(),
                    false => {
                        few[..count].copy_from_slice(held);
                        few.as_ptr()
                    }
                };
                V::f16(from.cast()).store(into.as_mut_ptr());
            }
            for offset in 0..count {
                let chunk = start + offset;
                for ((sums, row), scales) in sums.iter_mut().zip(rows).zip(&scales) {
                    let mut part = [V::zero(); T];
                    let bytes = row.bytes.as_ptr().add(chunk * F::KIND.bytes());
                    prefetch(bytes, far);
                    one::<V, F, T>(&mut part, bytes, x, chunk);
                    let scale = V::splat(scales[offset]);
                    for (sum, part) in sums.iter_mut().zip(part) {
                        *sum = part.mul_add(scale, *sum);
                    }
                }
            }
        }
    }
}
