use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::AddressType;

use super::{Abilities, CodeLayout, RowLayout, row_stride, strided, strided_ints, vector_size};
use crate::fp8::Fp8Matrix;
use crate::weight::Weight;

/// The buffers of a weight matrix `[rows, width]`.
#[derive(Debug, Clone)]
pub(crate) struct MatrixBuffers {
    /// Floats, or words of four codes.
    pub(crate) elements: CubeTensor,
    /// Scales of the codes, f32.
    pub(crate) scales: Option<CubeTensor>,
    pub(crate) rows: usize,
    pub(crate) layout: RowLayout,
}

/// What the engine refuses before weights are loaded.
pub(crate) const NO_GROUPS: &str = "weights in groups are for the CPU so far";

impl MatrixBuffers {
    pub(crate) fn new(weight: &Weight, abilities: Abilities) -> Self {
        match weight {
            Weight::Dense(weight) => Self::of_floats(strided(weight.clone())),
            Weight::Fp8(matrix) => Self::of_codes(matrix, abilities),
            Weight::Groups(_) => panic!("{NO_GROUPS}"),
        }
    }

    pub(crate) fn of_floats(elements: CubeTensor) -> Self {
        let [rows, width] = super::dims(&elements);
        let layout = RowLayout { width, stride: row_stride(&elements), codes: None };
        MatrixBuffers { elements, scales: None, rows, layout }
    }

    pub(crate) fn of_codes(matrix: &Fp8Matrix, abilities: Abilities) -> Self {
        let words = strided_ints(matrix.words().clone());
        let scales = strided(matrix.scales().clone());
        Self::of_words(words, scales, [matrix.dims()[1], matrix.group()], abilities)
    }

    /// `words [rows, ⌈width / 4⌉]`, `scales [rows, ⌈width / group⌉]`
    pub(crate) fn of_words(
        words: CubeTensor,
        scales: CubeTensor,
        [width, group]: [usize; 2],
        abilities: Abilities,
    ) -> Self {
        let [rows, _] = super::dims(&words);
        assert!(group >= width || group.is_multiple_of(4), "a scale for each {group} columns");
        let codes = CodeLayout {
            group: if group >= width { 0 } else { group },
            scale_stride: row_stride(&scales),
            native: abilities.e4m3,
        };
        let layout = RowLayout { width, stride: row_stride(&words), codes: Some(codes) };
        MatrixBuffers { elements: words, scales: Some(scales), rows, layout }
    }

    /// What kernels call the elements.
    pub(crate) fn elem(&self) -> ElemType {
        match self.layout.codes {
            Some(_) => super::elem(DType::U32),
            None => super::elem(self.elements.dtype),
        }
    }

    /// Values of an activation and elements of the matrix that one load takes, for `tokens` at once.
    pub(crate) fn vector_sizes(&self, activations: DType, tokens: usize) -> (usize, usize) {
        let RowLayout { width, stride, codes } = self.layout;
        if codes.is_none() {
            let size = self.elements.dtype.size().max(activations.size());
            let size = vector_size(size, &[width, stride]);
            return (size, size);
        }
        // The activations of all words of a vector are in registers.
        let most = if tokens > 4 { 2 } else { 4 };
        let words = width.div_ceil(4);
        (4, vector_size(size_of::<u32>(), &[words, stride]).min(most))
    }

    pub(crate) fn address_type(&self) -> AddressType {
        self.elements.required_address_type()
    }
}
