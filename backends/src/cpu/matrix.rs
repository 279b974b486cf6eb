//! Weight matrices `[rows, width]` as they lie in memory.

use std::ops::Range;

use half::{bf16, f16};

use super::isa::{Isa, dispatch};
use super::memory::prefetch_far;
use super::vector::Vector;

/// Values that kernels take at a time: those of a group of quantised weights.
pub(crate) const CHUNK: usize = 32;

/// Weights in one of their formats, row after row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// E4M3 codes, rows filled up to whole words, and a scale for each `group` columns of a row.
    E4m3 {
        codes: &'a [u8],
        scales: &'a [f32],
        group: usize,
    },
    /// Bytes in groups of 32 with one scale, rows filled up to whole groups.
    Q8 {
        codes: &'a [u8],
        scales: &'a [f16],
    },
    /// Half bytes with 8 added, in groups of 32 with one scale: 16 bytes hold the first 16 codes in
    /// their lower halves and the others in their upper ones.
    Q4 {
        codes: &'a [u8],
        scales: &'a [f16],
    },
}

/// How the codes of a row lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    E4m3,
    Q8,
    Q4,
}

/// Some rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: Values<'a>,
    rows: usize,
    width: usize,
}

/// Scales of a row, as its kernel takes them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scales<'a> {
    /// One for the whole row.
    One(f32),
    /// One for each so many chunks.
    Wide(&'a [f32], usize),
    /// One for each chunk.
    Chunk(&'a [f16]),
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// When there are not as many values as that.
    pub(crate) fn new(values: Values<'a>, [rows, width]: [usize; 2]) -> Self {
        let matrix = Matrix { values, rows, width };
        let (stride, scales) = (matrix.stride(), matrix.scales_of_row());
        let (bytes, held) = match values {
            Values::F32(values) => (size_of_val(values), 0),
            Values::F16(values) => (size_of_val(values), 0),
            Values::Bf16(values) => (size_of_val(values), 0),
            Values::E4m3 { codes, scales, .. } => (codes.len(), scales.len()),
            Values::Q8 { codes, scales } | Values::Q4 { codes, scales } => {
                (codes.len(), scales.len())
            }
        };
        assert_eq!([bytes, held], [rows * stride, rows * scales], "bytes and scales of a matrix");
        matrix
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.values {
            Values::F32(_) => Kind::F32,
            Values::F16(_) => Kind::F16,
            Values::Bf16(_) => Kind::Bf16,
            Values::E4m3 { .. } => Kind::E4m3,
            Values::Q8 { .. } => Kind::Q8,
            Values::Q4 { .. } => Kind::Q4,
        }
    }

    /// Some of the rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> Self {
        let (stride, held) = (self.stride(), self.scales_of_row());
        let bytes = rows.start * stride..rows.end * stride;
        let scale = rows.start * held..rows.end * held;
        let numbers = rows.start * self.width..rows.end * self.width;
        let values = match self.values {
            Values::F32(values) => Values::F32(&values[numbers]),
            Values::F16(values) => Values::F16(&values[numbers]),
            Values::Bf16(values) => Values::Bf16(&values[numbers]),
            Values::E4m3 { codes, scales, group } => {
                Values::E4m3 { codes: &codes[bytes], scales: &scales[scale], group }
            }
            Values::Q8 { codes, scales } => {
                Values::Q8 { codes: &codes[bytes], scales: &scales[scale] }
            }
            Values::Q4 { codes, scales } => {
                Values::Q4 { codes: &codes[bytes], scales: &scales[scale] }
            }
        };
        Matrix { values, rows: rows.len(), width: self.width }
    }

    /// Bytes of a row.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        match self.kind() {
            Kind::F32 => 4 * self.width,
            Kind::F16 | Kind::Bf16 => 2 * self.width,
            Kind::E4m3 => self.width.next_multiple_of(4),
            Kind::Q8 => self.width.next_multiple_of(CHUNK),
            Kind::Q4 => self.width.next_multiple_of(CHUNK) / 2,
        }
    }

    #[inline]
    fn scales_of_row(&self) -> usize {
        match self.values {
            Values::F32(_) | Values::F16(_) | Values::Bf16(_) => 0,
            Values::E4m3 { group, .. } => self.width.div_ceil(group),
            Values::Q8 { .. } | Values::Q4 { .. } => self.width.div_ceil(CHUNK),
        }
    }

    /// The bytes of a row.
    #[inline]
    pub(crate) fn bytes(&self, row: usize) -> &'a [u8] {
        let first = self.all_bytes();
        &first[row * self.stride()..][..self.stride()]
    }

    /// Asks for some chunks of some rows, as far as there are, which are read soon.
    pub(crate) fn prefetch(&self, rows: Range<usize>, chunks: Range<usize>) {
        let size = self.kind().bytes();
        let (first, end) = (chunks.start * size, (chunks.end * size).min(self.stride()));
        for row in rows {
            let bytes = self.bytes(row).as_ptr();
            for line in (first..end).step_by(64) {
                prefetch_far(bytes, line);
            }
        }
    }

    #[inline]
    fn all_bytes(&self) -> &'a [u8] {
        match self.values {
            Values::F32(values) => bytes(values),
            Values::F16(values) => bytes(values),
            Values::Bf16(values) => bytes(values),
            Values::E4m3 { codes, .. } | Values::Q8 { codes, .. } | Values::Q4 { codes, .. } => {
                codes
            }
        }
    }

    /// Whether kernels of chunks take the scales as they are: `false` where columns that share one
    /// are no whole chunks.
    pub(crate) fn has_whole_groups(&self) -> bool {
        match self.values {
            Values::E4m3 { group, .. } => group >= self.width || group.is_multiple_of(CHUNK),
            _ => true,
        }
    }

    /// The scales of a row whose groups are whole chunks.
    #[inline]
    pub(crate) fn scales(&self, row: usize) -> Scales<'a> {
        let held = self.scales_of_row();
        match self.values {
            Values::F32(_) | Values::F16(_) | Values::Bf16(_) => Scales::One(1.0),
            Values::E4m3 { scales, group, .. } => match group >= self.width {
                true => Scales::One(scales[row]),
                false => Scales::Wide(&scales[row * held..][..held], group / CHUNK),
            },
            Values::Q8 { scales, .. } | Values::Q4 { scales, .. } => {
                Scales::Chunk(&scales[row * held..][..held])
            }
        }
    }

    /// The scales of a row that has one for each chunk.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn scales_of_chunks(&self, row: usize) -> &'a [f16] {
        match self.scales(row) {
            Scales::Chunk(scales) => scales,
            _ => unreachable!("a scale for each chunk"),
        }
    }

    /// Writes a row in f32.
    pub(crate) fn expand(&self, isa: Isa, row: usize, into: &mut [f32]) {
        self.expand_columns(isa, row, 0..self.width, false, into);
    }

    /// Writes some columns of a row in f32, from a whole chunk on, with or without the scale where the
    /// row has one only.
    pub(crate) fn expand_columns(
        &self,
        isa: Isa,
        row: usize,
        columns: Range<usize>,
        without_scale: bool,
        into: &mut [f32],
    ) {
        assert!(columns.start.is_multiple_of(CHUNK) && into.len() == columns.len());
        let kind = self.kind();
        widen(isa, kind, &self.bytes(row)[columns.start / CHUNK * kind.bytes()..], into);
        let held = self.scales_of_row();
        match self.values {
            Values::F32(_) | Values::F16(_) | Values::Bf16(_) => {}
            Values::E4m3 { group, .. } if group >= self.width && without_scale => {}
            Values::E4m3 { scales, group, .. } => {
                let scales = &scales[row * held..][..held];
                let mut rest = into;
                let mut column = columns.start;
                while !rest.is_empty() {
                    let some;
                    let count = rest.len().min(group - column % group);
                    (some, rest) = rest.split_at_mut(count);
                    let scale = scales[column / group];
                    some.iter_mut().for_each(|value| *value *= scale);
                    column += count;
                }
            }
            Values::Q8 { scales, .. } | Values::Q4 { scales, .. } => {
                let scales = &scales[row * held + columns.start / CHUNK..];
                let scales = &scales[..into.len().div_ceil(CHUNK)];
                // SAFETY: `Isa::current` gives what there is.
                unsafe { dispatch!(isa, scale(into: &mut [f32], scales: &[f16])) };
            }
        }
    }
}

/// Multiplies chunks with their scales.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn scale<V: Vector>(values: &mut [f32], scales: &[f16]) {
    for (some, scales) in values.chunks_mut(16 * CHUNK).zip(scales.chunks(16)) {
        let (mut few, mut wide) = ([f16::ZERO; 16], [0.0; 16]);
        few[..scales.len()].copy_from_slice(scales);
        for place in (0..16).step_by(V::LANES) {
            // SAFETY: both have sixteen values.
            unsafe {
                let from = few.as_ptr().add(place).cast();
                V::f16(from).store(wide.as_mut_ptr().add(place));
            }
        }
        for (values, scale) in some.chunks_mut(CHUNK).zip(wide) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// The bytes of numbers.
pub(crate) fn bytes<T: Number>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any byte is a byte.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A type without padding.
pub(crate) trait Number {}

impl Number for f32 {}
impl Number for f16 {}
impl Number for bf16 {}
impl Number for i32 {}

impl Kind {
    /// Bytes of a chunk.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4 * CHUNK,
            Kind::F16 | Kind::Bf16 => 2 * CHUNK,
            Kind::E4m3 | Kind::Q8 => CHUNK,
            Kind::Q4 => CHUNK / 2,
        }
    }
}

/// Values of a row in f32, without their scales.
///
/// # Panics
/// When there are fewer than `into` holds.
pub(crate) fn widen(isa: Isa, kind: Kind, bytes: &[u8], into: &mut [f32]) {
    let (chunks, rest) = (into.len() / CHUNK, into.len() % CHUNK);
    assert!(bytes.len() >= chunks * kind.bytes(), "{} values", into.len());
    // SAFETY: `Isa::current` gives what there is, the chunks are whole ones of the bytes, and there is
    // room for them.
    unsafe {
        let (from, to) = (bytes.as_ptr(), into.as_mut_ptr());
        dispatch!(isa, expand(kind: Kind, from: *const u8, to: *mut f32, chunks: usize));
    }
    if rest > 0 {
        let mut last = [0; 4 * CHUNK];
        let tail = &bytes[chunks * kind.bytes()..];
        let tail = &tail[..tail.len().min(kind.bytes())];
        last[..tail.len()].copy_from_slice(tail);
        let mut values = [0.0; CHUNK];
        // SAFETY: as above, for one chunk of the copies.
        unsafe {
            let (from, to, chunks) = (last.as_ptr(), values.as_mut_ptr(), 1);
            dispatch!(isa, expand(kind: Kind, from: *const u8, to: *mut f32, chunks: usize));
        }
        into[chunks * CHUNK..].copy_from_slice(&values[..rest]);
    }
}

/// Chunks in f32 without their scales, in the order of the row.
///
/// # Safety
/// The CPU has the instructions, and the chunks can be read and written.
#[inline(always)]
unsafe fn expand<V: Vector>(kind: Kind, from: *const u8, to: *mut f32, chunks: usize) {
    // SAFETY: the caller's.
    unsafe {
        match kind {
            Kind::F32 => std::ptr::copy_nonoverlapping(from, to.cast(), chunks * 4 * CHUNK),
            Kind::Bf16 => {
                let from: *const u16 = from.cast();
                for index in 0..chunks * CHUNK {
                    let bits = from.add(index).read_unaligned();
                    to.add(index).write(f32::from_bits(u32::from(bits) << 16));
                }
            }
            Kind::F16 | Kind::E4m3 | Kind::Q8 => {
                let size = kind.bytes() / CHUNK;
                for index in (0..chunks * CHUNK).step_by(V::LANES) {
                    let from = from.add(index * size);
                    let values = match kind {
                        Kind::F16 => V::f16(from),
                        Kind::E4m3 => V::e4m3(from).times(V::splat(E4M3)),
                        _ => V::i8(from),
                    };
                    values.store(to.add(index));
                }
            }
            Kind::Q4 => {
                for chunk in 0..chunks {
                    for part in (0..CHUNK / 2).step_by(V::LANES) {
                        let to = to.add(chunk * CHUNK + part);
                        let [low, high] = V::i4_pair(from.add(chunk * CHUNK / 2 + part));
                        low.store(to);
                        high.store(to.add(CHUNK / 2));
                    }
                }
            }
        }
    }
}

/// What [`Vector::e4m3`] leaves out.
pub(crate) const E4M3: f32 = 256.0;
