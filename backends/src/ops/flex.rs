//! What the kernels for the CPU share. They belong to Burn's Flex backend and are reached through
//! its `backend_extension`; each file `cpu.rs` declares the trait of its ops.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchDevice, DispatchTensorKind, ExtensionType, Flex};
use burn::tensor::{DType, Device, Shape, Tensor};
use half::{bf16, f16};

use crate::cpu::{Isa, Kind, LANES, Matrix, Values, bytes, prefetch_far, widen};
use crate::fp8::Activations;
use crate::groups::{Bits, GROUP};
use crate::kv::{KvRows, Parts};
use crate::weight::Weight;

/// Whether tensors of the device are Flex's.
pub(super) fn computes_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether these kernels take tensors of a device in `dtype`.
pub(super) fn takes(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && computes_on(device) && !super::path::references_only()
}

/// Rows of a piece of work that is little for each of them.
pub(super) const ROWS: usize = 16;

/// Lengths of a tensor's axes.
pub(super) fn shape_of(tensor: &FloatTensor<Flex>) -> Shape {
    tensor.layout().shape().clone()
}

/// Integers of any width, in order.
pub(super) fn integers(tensor: &IntTensor<Flex>) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I64 => tensor.as_slice::<i64>().map(|s| s.iter().map(|v| *v as usize).collect()),
        DType::I32 => tensor.as_slice::<i32>().map(|s| s.iter().map(|v| *v as usize).collect()),
        other => panic!("indices in {}", other.name()),
    }
    .expect("contiguous")
}

/// A [`Weight`] as the tensors of a backend.
#[derive(Debug, ExtensionType)]
pub(crate) enum HeldWeight<B: Backend> {
    /// `[rows, width]`, in any float dtype.
    Dense(FloatTensor<B>),
    /// Codes and scales, as in [`Fp8Matrix`](crate::fp8::Fp8Matrix).
    Fp8 {
        /// `[rows, words]`
        words: IntTensor<B>,
        /// `[rows, groups]`
        scales: FloatTensor<B>,
    },
    /// As in [`GroupMatrix`](crate::groups::GroupMatrix).
    Groups {
        /// `[rows, groups * words]`
        words: IntTensor<B>,
        /// `[rows, groups]`
        scales: FloatTensor<B>,
    },
}

/// What the tensors of a [`HeldWeight`] do not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightForm {
    /// Columns.
    width: usize,
    /// Columns that share a scale.
    group: usize,
    /// Of codes in groups.
    bits: Bits,
    /// What the other side of products is.
    pub(crate) activations: Activations,
}

impl From<&Weight> for HeldWeight<Dispatch> {
    fn from(weight: &Weight) -> Self {
        match weight {
            Weight::Dense(weight) => HeldWeight::Dense(weight.clone().into_dispatch()),
            Weight::Fp8(matrix) => HeldWeight::Fp8 {
                words: matrix.words().clone().into_dispatch(),
                scales: matrix.scales().clone().into_dispatch(),
            },
            Weight::Groups(matrix) => HeldWeight::Groups {
                words: matrix.words().clone().into_dispatch(),
                scales: matrix.scales().clone().into_dispatch(),
            },
        }
    }
}

/// A matrix of the host as Flex has it.
///
/// # Panics
/// For one of another device.
pub(crate) fn held(matrix: &Tensor<2>) -> HeldWeight<Flex> {
    match matrix.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(matrix) => HeldWeight::Dense(matrix.float()).contiguous(),
        #[cfg(feature = "cube")]
        _ => panic!("a matrix of the host"),
    }
}

impl WeightForm {
    pub(crate) fn of(weight: &Weight) -> Self {
        let [_, width] = weight.dims();
        let form =
            WeightForm { width, group: width, bits: Bits::Eight, activations: Activations::Float };
        match weight {
            Weight::Dense(_) => form,
            Weight::Fp8(matrix) => {
                WeightForm { group: matrix.group(), activations: matrix.activations(), ..form }
            }
            Weight::Groups(matrix) => WeightForm { group: GROUP, bits: matrix.bits(), ..form },
        }
    }
}

impl HeldWeight<Flex> {
    /// Its rows one after the other in memory: as they are, but for a part of them.
    pub(crate) fn contiguous(self) -> Self {
        match self {
            HeldWeight::Dense(weight) => HeldWeight::Dense(weight.to_contiguous()),
            HeldWeight::Fp8 { words, scales } => {
                HeldWeight::Fp8 { words: words.to_contiguous(), scales: scales.to_contiguous() }
            }
            HeldWeight::Groups { words, scales } => {
                HeldWeight::Groups { words: words.to_contiguous(), scales: scales.to_contiguous() }
            }
        }
    }

    /// The matrix of contiguous tensors.
    pub(crate) fn matrix(&self, form: &WeightForm) -> Matrix<'_> {
        let WeightForm { width, group, bits, .. } = *form;
        let (values, rows) = match self {
            HeldWeight::Dense(weight) => {
                let [rows, _] = weight.layout().shape().dims();
                let values = match weight.dtype() {
                    DType::F32 => Values::F32(weight.as_slice().expect("contiguous")),
                    DType::F16 => Values::F16(weight.as_slice().expect("contiguous")),
                    DType::BF16 => Values::Bf16(weight.as_slice().expect("contiguous")),
                    other => panic!("weights in {}", other.name()),
                };
                (values, rows)
            }
            HeldWeight::Fp8 { words, scales } => {
                let [rows, _] = words.layout().shape().dims();
                let codes = bytes(words.as_slice::<i32>().expect("contiguous"));
                let scales = scales.as_slice().expect("contiguous");
                (Values::E4m3 { codes, scales, group }, rows)
            }
            HeldWeight::Groups { words, scales } => {
                let [rows, _] = words.layout().shape().dims();
                let codes = bytes(words.as_slice::<i32>().expect("contiguous"));
                let scales = scales.as_slice().expect("contiguous");
                let values = match bits {
                    Bits::Eight => Values::Q8 { codes, scales },
                    Bits::Four => Values::Q4 { codes, scales },
                };
                (values, rows)
            }
        };
        Matrix::new(values, [rows, width])
    }
}

/// [`KvRows`] as the tensors of a backend.
#[derive(Debug, ExtensionType)]
pub(crate) enum HeldRows<B: Backend> {
    /// `[slots, width]`
    Float(FloatTensor<B>),
    /// Codes and scales, as in [`Fp8Rows`](crate::kv::Fp8Rows).
    Fp8 {
        /// `[slots, words]`
        words: IntTensor<B>,
        /// `[slots, parts]`
        scales: FloatTensor<B>,
    },
}

impl From<&KvRows> for HeldRows<Dispatch> {
    fn from(rows: &KvRows) -> Self {
        match rows {
            KvRows::Float(rows) => HeldRows::Float(rows.clone().into_dispatch()),
            KvRows::Fp8(rows) => HeldRows::Fp8 {
                words: rows.words.clone().into_dispatch(),
                scales: rows.scales.clone().into_dispatch(),
            },
        }
    }
}

/// Cached rows in memory, and where in a row the values of each KV head lie.
#[derive(Debug)]
pub(super) struct Cached<'a> {
    isa: Isa,
    rows: Rows<'a>,
    /// Values, words and scales of a row.
    widths: [usize; 3],
    heads: Vec<Vec<Place>>,
}

#[derive(Debug)]
enum Rows<'a> {
    F32(&'a [f32]),
    Half(Kind, &'a [u8]),
    Fp8 { codes: &'a [u8], scales: &'a [f32] },
}

/// Where a part of a row begins: its first value, its first word and its scale.
#[derive(Debug, Clone, Copy)]
struct Place {
    value: usize,
    word: usize,
    scale: usize,
    width: usize,
}

impl<'a> Cached<'a> {
    /// Rows that consist of `parts`, of which each of `heads` KV heads reads as many.
    pub(super) fn new(isa: Isa, rows: &'a HeldRows<Flex>, parts: &[Parts], heads: usize) -> Self {
        let mut next = Place { value: 0, word: 0, scale: 0, width: 0 };
        let mut places = Vec::new();
        for part in parts {
            for _ in 0..part.count {
                places.push(Place { width: part.width, ..next });
                next.value += part.width;
                next.word += crate::kv::words(part.width);
                next.scale += 1;
            }
        }
        let rows = match rows {
            HeldRows::Float(rows) => match rows.dtype() {
                DType::F32 => Rows::F32(rows.as_slice().expect("contiguous pages")),
                DType::F16 => {
                    let rows = rows.as_slice::<f16>().expect("contiguous pages");
                    Rows::Half(Kind::F16, bytes(rows))
                }
                DType::BF16 => {
                    let rows = rows.as_slice::<bf16>().expect("contiguous pages");
                    Rows::Half(Kind::Bf16, bytes(rows))
                }
                other => panic!("a cache in {}", other.name()),
            },
            HeldRows::Fp8 { words, scales } => Rows::Fp8 {
                codes: bytes(words.as_slice::<i32>().expect("contiguous pages")),
                scales: scales.as_slice().expect("contiguous pages"),
            },
        };
        let heads = places.chunks(places.len() / heads).map(<[Place]>::to_vec).collect();
        Cached { isa, rows, widths: [next.value, next.word, next.scale], heads }
    }

    /// Values of a KV head in a row.
    pub(super) fn width(&self, head: usize) -> usize {
        self.heads[head].iter().map(|place| place.width).sum()
    }

    /// Values of a KV head at a slot.
    pub(super) fn read(&self, slot: usize, head: usize, into: &mut [f32]) {
        let [values, words, scales_of_row] = self.widths;
        let mut rest = into;
        for place in &self.heads[head] {
            let out;
            (out, rest) = rest.split_at_mut(place.width);
            let first = slot * values + place.value;
            match &self.rows {
                Rows::F32(rows) => out.copy_from_slice(&rows[first..first + place.width]),
                Rows::Half(kind, bytes) => {
                    widen(self.isa, *kind, &bytes[2 * first..2 * (first + place.width)], out);
                }
                Rows::Fp8 { codes, scales } => {
                    let first = 4 * (slot * words + place.word);
                    let codes = &codes[first..first + 4 * crate::kv::words(place.width)];
                    widen(self.isa, Kind::E4m3, codes, out);
                    let scale = scales[slot * scales_of_row + place.scale];
                    out.iter_mut().for_each(|value| *value *= scale);
                }
            }
        }
    }

    /// Asks for the values of a KV head at a slot, which are read soon.
    pub(super) fn prefetch(&self, slot: usize, head: usize) {
        let [values, words, _] = self.widths;
        for place in &self.heads[head] {
            let first = slot * values + place.value;
            let part = match &self.rows {
                Rows::F32(rows) => bytes(&rows[first..][..place.width]),
                Rows::Half(_, bytes) => &bytes[2 * first..][..2 * place.width],
                Rows::Fp8 { codes, .. } => {
                    let words_of_part = crate::kv::words(place.width);
                    &codes[4 * (slot * words + place.word)..][..4 * words_of_part]
                }
            };
            for line in (0..part.len()).step_by(64) {
                prefetch_far(part.as_ptr(), line);
            }
        }
    }

    /// The values of a KV head in the rows from a slot on, and how far rows are apart: where they lie as
    /// f32 and can be read in vectors.
    pub(super) fn in_place(&self, slot: usize, head: usize) -> Option<(&'a [f32], usize)> {
        let [values, ..] = self.widths;
        let places = &self.heads[head];
        let width: usize = places.iter().map(|place| place.width).sum();
        match self.rows {
            Rows::F32(rows) if width.is_multiple_of(LANES) => {
                Some((&rows[slot * values + places[0].value..], values))
            }
            _ => None,
        }
    }
}
