//! Rotary position embedding.

pub(super) mod cases;
#[cfg(feature = "cpu")]
pub(super) mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
pub(crate) mod launch;
mod reference;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Which two values of a head are rotated together, in the first `rotary_dim` values of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeOrder {
    /// `(x[i], x[i + rotary_dim / 2])`, also called NeoX order.
    HalfSplit,
    /// `(x[2i], x[2i + 1])`, also called GPT-J order.
    Interleaved,
}

/// Cosines and sines of every position, kept in f32 on the device.
///
/// `angle[p, i] = p * theta^(-2i / rotary_dim)` for `i < rotary_dim / 2`
/// ([Su et al. 2021](https://arxiv.org/abs/2104.09864)). The angle is formed in f32 as
/// transformers does; a table spares the device the sine of large angles, which shader
/// languages only promise near zero.
#[derive(Debug)]
pub struct RotaryTable {
    order: RopeOrder,
    /// `[positions, rotary_dim / 2]`
    cos: Tensor<2>,
    /// `[positions, rotary_dim / 2]`
    sin: Tensor<2>,
}

/// Cosines and sines of the tokens of one step, shared by all its layers.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub(crate) order: RopeOrder,
    /// `[rows, rotary_dim / 2]`
    cos: Tensor<2>,
    /// `[rows, rotary_dim / 2]`
    sin: Tensor<2>,
    /// Row of each token, `[tokens]`; without it, each token has its own.
    positions: Option<Tensor<1, Int>>,
}

impl RotaryTable {
    /// The table for positions below `positions`.
    pub fn new(
        positions: usize,
        rotary_dim: usize,
        theta: f64,
        order: RopeOrder,
        device: &Device,
    ) -> Self {
        let pairs = rotary_dim / 2;
        let frequencies: Vec<f32> = (0..pairs)
            .map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / rotary_dim as f32))
            .collect();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        cos.reserve_exact(positions * pairs);
        sin.reserve_exact(positions * pairs);
        for position in 0..positions {
            for frequency in &frequencies {
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let upload = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [positions, pairs]), (device, DType::F32))
        };
        RotaryTable { order, cos: upload(cos), sin: upload(sin) }
    }

    /// A table that is there already, `cos` and `sin` of `[positions, rotary_dim / 2]`.
    #[cfg(any(test, feature = "offline"))]
    pub(crate) fn of(order: RopeOrder, cos: Tensor<2>, sin: Tensor<2>) -> Self {
        RotaryTable { order, cos, sin }
    }

    /// The rotation of tokens at `positions [tokens]`. Where kernels compute, they read the table;
    /// elsewhere its rows are gathered here, once for all layers.
    pub fn at(&self, positions: Tensor<1, Int>) -> Rotation {
        let (order, cos, sin) = (self.order, self.cos.clone(), self.sin.clone());
        let whole = Rotation { order, cos, sin, positions: Some(positions) };
        #[cfg(feature = "cube")]
        if super::path::takes_kernels(&whole.cos.device()) {
            return whole;
        }
        let (cos, sin) = whole.gathered();
        Rotation { order, cos, sin, positions: None }
    }
}

impl Rotation {
    /// Cosines and sines of each token, `[tokens, rotary_dim / 2]`.
    pub(super) fn gathered(&self) -> (Tensor<2>, Tensor<2>) {
        let rows = |table: &Tensor<2>| match &self.positions {
            Some(positions) => table.clone().select(0, positions.clone()),
            None => table.clone(),
        };
        (rows(&self.cos), rows(&self.sin))
    }

    /// Cosines and sines, and the row of each token in them.
    #[cfg(feature = "cube")]
    fn rows(&self) -> (Tensor<2>, Tensor<2>, Tensor<1, Int>) {
        let positions = match &self.positions {
            Some(positions) => positions.clone(),
            None => Tensor::arange(0..self.cos.dims()[0] as i64, &self.cos.device()),
        };
        (self.cos.clone(), self.sin.clone(), positions)
    }
}

/// Rotates the first `rotary_dim` values of every head in pairs and passes the rest through. Each
/// value stays at its place: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`. (transformers moves
/// interleaved pairs to half-split places, which changes no product of queries and keys.)
///
/// Shapes: `x [tokens, heads, head_dim]`, rotation of `tokens` →
/// `[tokens, heads, head_dim]`. Computed in f32, returned in the dtype of `x`.
pub fn rope(x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
    #[cfg(feature = "cube")]
    if super::path::takes_kernels(&x.device()) {
        return launch::rope(x, rotation);
    }
    reference::rope(x, rotation)
}
