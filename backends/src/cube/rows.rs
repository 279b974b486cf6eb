//! Products of the rows of a weight matrix with a few tokens, for steps in which reading the
//! weights is most of the work: a group of lanes takes a row and reads it once for all tokens.

use cubecl::prelude::*;

use super::decode_word;

/// How a weight matrix lies in its buffer, all of it constant for a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowLayout {
    /// Columns of the matrix.
    pub(crate) width: usize,
    /// Elements (words of FP8 codes) from row to row.
    pub(crate) stride: usize,
    /// Codes, where the matrix is FP8.
    pub(crate) codes: Option<CodeLayout>,
}

/// What an FP8 matrix has besides its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CodeLayout {
    /// Columns that share a scale; 0 where a row has a single one.
    pub(crate) group: usize,
    /// Scales from row to row.
    pub(crate) scale_stride: usize,
    /// Whether the device converts codes itself.
    pub(crate) native: bool,
}

/// What is done with activations on their way into a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum OnTheWay {
    /// They are taken as they are.
    Nothing,
    /// They are normed: the gain is multiplied in, and the squares are summed for what the products
    /// are divided by in the end.
    Norm,
    /// Something is added to them, and the sum is normed.
    AddNorm,
}

impl OnTheWay {
    pub(crate) fn norms(self) -> bool {
        self != OnTheWay::Nothing
    }

    pub(crate) fn adds(self) -> bool {
        self == OnTheWay::AddNorm
    }
}

impl RowLayout {
    /// Whether the elements are words of codes.
    pub(crate) fn is_fp8(&self) -> bool {
        self.codes.is_some()
    }

    pub(crate) fn native(&self) -> bool {
        self.codes.is_some_and(|codes| codes.native)
    }

    pub(crate) fn is_grouped(&self) -> bool {
        self.codes.is_some_and(|codes| codes.group > 0)
    }

    /// Whether a row has one scale.
    pub(crate) fn has_row_scales(&self) -> bool {
        self.codes.is_some_and(|codes| codes.group == 0)
    }

    /// Columns of a scale, or all of them.
    pub(crate) fn group(&self) -> usize {
        match self.codes {
            Some(CodeLayout { group, .. }) if group > 0 => group,
            _ => self.width,
        }
    }

    pub(crate) fn scale_stride(&self) -> usize {
        self.codes.map_or(0, |codes| codes.scale_stride)
    }

    /// Vectors of `size` elements that a row is read in.
    pub(crate) fn vectors(&self, size: usize) -> usize {
        match self.codes {
            Some(_) => self.width.div_ceil(4).div_ceil(size),
            None => self.width / size,
        }
    }
}

/// Adds the products of `rows` rows, every `apart`-th from `row` on, with `tokens` rows of `x`:
/// `sums[r * tokens + t]` gets this lane's part of row `row + r * apart` times token `t`. Rows past
/// `last` repeat that one.
///
/// Token `t` begins at `x[x_firsts[t]]`, counted in vectors.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(crate) fn add_row_products<F: Float, W: Numeric, NX: Size, NW: Size>(
    sums: &mut Array<f32>,
    x: &[Vector<F, NX>],
    x_firsts: &Array<usize>,
    weight: &[Vector<W, NW>],
    scales: &[f32],
    row: usize,
    last: usize,
    lane: usize,
    #[comptime] rows: usize,
    #[comptime] apart: usize,
    #[comptime] tokens: usize,
    #[comptime] lanes: usize,
    #[comptime] layout: RowLayout,
) {
    let mut squares = Array::<f32>::new(tokens);
    add_normed_row_products::<F, W, NX, NW>(
        sums,
        x,
        x,
        x,
        &mut squares,
        x_firsts,
        weight,
        scales,
        row,
        last,
        lane,
        rows,
        apart,
        tokens,
        lanes,
        layout,
        OnTheWay::Nothing,
    );
}

/// [`add_row_products`] with activations that may be normed on the way: `squares[t]` gets this lane's
/// part of the sum of squares of token `t`, by which the products have to be divided in the end.
/// `added` lies as `x` does.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the arguments of a kernel")]
pub(crate) fn add_normed_row_products<F: Float, W: Numeric, NX: Size, NW: Size>(
    sums: &mut Array<f32>,
    x: &[Vector<F, NX>],
    added: &[Vector<F, NX>],
    gain: &[Vector<F, NX>],
    squares: &mut Array<f32>,
    x_firsts: &Array<usize>,
    weight: &[Vector<W, NW>],
    scales: &[f32],
    row: usize,
    last: usize,
    lane: usize,
    #[comptime] rows: usize,
    #[comptime] apart: usize,
    #[comptime] tokens: usize,
    #[comptime] lanes: usize,
    #[comptime] layout: RowLayout,
    #[comptime] on_the_way: OnTheWay,
) {
    let size = NW::value().comptime();
    let vectors = comptime![layout.vectors(size)];
    let parts = comptime![if layout.is_fp8() { size } else { 1 }];
    for step in 0..comptime![vectors.div_ceil(lanes)] {
        let index = step * lanes + lane;
        if index < vectors {
            let mut values = Array::<Vector<f32, NX>>::new(comptime![tokens * parts]);
            #[unroll]
            for token in 0..tokens {
                #[unroll]
                for part in 0..parts {
                    let place = x_firsts[token] + index * parts + part;
                    let mut value = Vector::<f32, NX>::cast_from(x[place]);
                    if comptime![on_the_way.adds()] {
                        let other = Vector::<f32, NX>::cast_from(added[place]);
                        let both = Vector::<F, NX>::cast_from(value + other);
                        value = Vector::<f32, NX>::cast_from(both);
                    }
                    if comptime![on_the_way.norms()] {
                        #[unroll]
                        for column in 0..NX::value() {
                            let number = value.extract(column);
                            squares[token] += number * number;
                        }
                        let factor = gain[index * parts + part];
                        value *= Vector::<f32, NX>::cast_from(factor);
                    }
                    values[comptime![token * parts + part]] = value;
                }
            }
            #[unroll]
            for offset in 0..rows {
                let place = clamp_max(row + offset * apart, last);
                let elements = weight[place * comptime![layout.stride / size] + index];
                #[unroll]
                for part in 0..parts {
                    let mut scale = 1.0f32;
                    if comptime![layout.is_grouped()] {
                        let group = (index * parts + part) * 4 / comptime![layout.group()];
                        scale = scales[place * comptime![layout.scale_stride()] + group];
                    }
                    #[unroll]
                    for token in 0..tokens {
                        let value = values[comptime![token * parts + part]];
                        let at = comptime![offset * tokens + token];
                        let product = dot::<W, NX, NW>(elements, value, part, layout);
                        if comptime![layout.is_grouped()] {
                            sums[at] += product * scale;
                        } else {
                            sums[at] += product;
                        }
                    }
                }
            }
        }
    }
}

/// The product of a vector of weights, or of the codes in one of its words, with values.
#[cube]
fn dot<W: Numeric, NX: Size, NW: Size>(
    elements: Vector<W, NW>,
    value: Vector<f32, NX>,
    #[comptime] part: usize,
    #[comptime] layout: RowLayout,
) -> f32 {
    let mut sum = 0.0f32;
    if comptime![layout.is_fp8()] {
        let weights =
            decode_word(u32::cast_from(elements.extract(part)), comptime![layout.native()]);
        #[unroll]
        for index in 0..4usize {
            sum += weights.extract(index) * value.extract(index);
        }
    } else {
        #[unroll]
        for index in 0..NX::value() {
            sum += f32::cast_from(elements.extract(index)) * value.extract(index);
        }
    }
    sum
}

#[cube]
fn clamp_max(value: usize, most: usize) -> usize {
    select(value < most, value, most)
}
