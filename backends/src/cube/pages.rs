//! Rows of the KV cache in kernels.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Abilities, encode_code, max_of_lanes, row_stride, strided, strided_ints};
use crate::kv::{Fp8Rows, KvRows, Parts, words};

/// How rows of the cache lie in their buffer, all of it constant for a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PageLayout {
    /// Elements (words of FP8 codes) from slot to slot.
    pub(crate) stride: usize,
    /// Scales from slot to slot, where elements are words of codes.
    pub(crate) scales: Option<usize>,
    /// Whether the device converts codes itself.
    pub(crate) native: bool,
}

impl PageLayout {
    pub(crate) fn is_fp8(&self) -> bool {
        self.scales.is_some()
    }

    pub(crate) fn scale_stride(&self) -> usize {
        self.scales.unwrap_or(0)
    }

    /// Elements that a part of `width` values takes.
    pub(crate) fn elements(&self, width: usize) -> usize {
        if self.is_fp8() { words(width) } else { width }
    }

    /// Values that an element holds.
    pub(crate) fn values(&self) -> usize {
        if self.is_fp8() { 4 } else { 1 }
    }
}

/// The buffers of rows of the cache.
#[derive(Debug, Clone)]
pub(crate) struct PageBuffers {
    /// Floats, or words of four codes.
    pub(crate) elements: CubeTensor,
    /// Scales of the codes, f32.
    pub(crate) scales: Option<CubeTensor>,
    pub(crate) layout: PageLayout,
}

impl PageBuffers {
    pub(crate) fn of_floats(elements: CubeTensor) -> Self {
        let layout = PageLayout { stride: row_stride(&elements), scales: None, native: false };
        PageBuffers { elements, scales: None, layout }
    }

    /// `words [slots, words]`, `scales [slots, parts]`
    pub(crate) fn of_codes(words: CubeTensor, scales: CubeTensor) -> Self {
        let layout = PageLayout {
            stride: row_stride(&words),
            scales: Some(row_stride(&scales)),
            native: Abilities::of(&words.client).e4m3,
        };
        PageBuffers { elements: words, scales: Some(scales), layout }
    }

    pub(crate) fn new(rows: &KvRows) -> Self {
        match rows {
            KvRows::Float(held) => Self::of_floats(strided(held.clone())),
            KvRows::Fp8(Fp8Rows { words, scales, .. }) => {
                Self::of_codes(strided_ints(words.clone()), strided(scales.clone()))
            }
        }
    }

    /// For kernels that write, into the very buffers of `rows`: nobody else holds them for long, and
    /// launches keep their order.
    pub(crate) fn to_write(rows: &mut KvRows) -> Self {
        Self::new(rows)
    }

    /// What kernels call the elements.
    pub(crate) fn elem(&self) -> ElemType {
        match self.layout.is_fp8() {
            true => super::elem(DType::U32),
            false => super::elem(self.elements.dtype),
        }
    }

    /// Bytes of an element.
    pub(crate) fn elem_size(&self) -> usize {
        self.elements.dtype.size()
    }

    pub(crate) fn address_type(&self) -> AddressType {
        self.elements.required_address_type()
    }
}

/// At most two kinds of parts, as every cache has them; the second may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TwoParts {
    pub(crate) first: [usize; 2],
    pub(crate) second: [usize; 2],
}

impl TwoParts {
    /// # Panics
    /// When there are more.
    pub(crate) fn new(parts: &[Parts]) -> Self {
        let of = |index: usize| parts.get(index).map_or([0, 1], |part| [part.count, part.width]);
        assert!(parts.len() <= 2, "{parts:?}");
        TwoParts { first: of(0), second: of(1) }
    }

    pub(crate) fn count(&self) -> usize {
        self.first[0] + self.second[0]
    }

    pub(crate) fn width(&self) -> usize {
        self.first[0] * self.first[1] + self.second[0] * self.second[1]
    }

    pub(crate) fn widest(&self) -> usize {
        self.first[1].max(self.second[1])
    }
}

/// Stores `width` of `values`, from `from` on, as a part of the row at `slot`, `first` elements into it and
/// with scale number `scale`. All units of the cube have to come here, after `values` were written
/// and synchronised; `shared` has a place for each of them.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(crate) fn store_part<E: Numeric>(
    values: &Shared<[f32]>,
    from: usize,
    pages: &mut [E],
    scales: &mut [f32],
    slot: usize,
    first: usize,
    scale: usize,
    shared: &mut Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] layout: PageLayout,
    #[comptime] units: usize,
    #[comptime] plane: usize,
) {
    let unit = UNIT_POS as usize;
    let row = slot * layout.stride + first;
    if comptime![layout.is_fp8()] {
        // What is not finite must not be read back as if it were.
        let beyond = 3.4e38f32;
        let mut largest = 0.0f32;
        for step in 0..comptime![width.div_ceil(units)] {
            let index = step * units + unit;
            if index < width {
                let bits = u32::reinterpret(values[from + index]) & 0x7FFF_FFFFu32;
                let magnitude = select(bits < 0x7F80_0000u32, f32::reinterpret(bits), beyond);
                largest = max(largest, magnitude);
            }
        }
        let largest = max_of_lanes(largest, shared, units, plane);
        let factor = largest / 448.0f32;
        let least = comptime![1.0f32 / (448.0 * 512.0)];
        let factor = select(factor > least, factor, least);
        let nan = f32::reinterpret(u32::reinterpret(largest) | 0x7FC0_0000u32);
        if unit == 0 {
            scales[slot * comptime![layout.scale_stride()] + scale] =
                select(largest < beyond, factor, nan);
        }
        let held = comptime![words(width)];
        for step in 0..comptime![held.div_ceil(units)] {
            let word = step * units + unit;
            if word < held {
                let mut packed = 0u32;
                #[unroll]
                for index in 0..4usize {
                    if word * 4 + index < width {
                        let code = encode_code(values[from + word * 4 + index] / factor);
                        packed |= code << comptime![8 * index as u32];
                    }
                }
                pages[row + word] = E::cast_from(packed);
            }
        }
    } else {
        for step in 0..comptime![width.div_ceil(units)] {
            let index = step * units + unit;
            if index < width {
                pages[row + index] = E::cast_from(values[from + index]);
            }
        }
    }
}
