//! The table that parity tests, benches and `glm inspect` walk: what an op is called, on what
//! shapes it is tried and how close two ways of computing it have to be.

use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};

use crate::fp8::{Activations, CODES_PER_WORD, Fp8Matrix};
use crate::groups::{self, Bits, GroupMatrix};
use crate::kv::{KvFormat, PageTables, TileShape, TileTables, Tiles};

/// One op and the inputs it is tried on.
#[derive(Debug)]
pub struct Kernel {
    /// Name of the op, and of its folder.
    pub name: &'static str,
    /// Inputs, each with its own label.
    pub cases: &'static [Case],
    /// Largest relative L2 distance between two devices or two implementations, in f32.
    pub tolerance: f32,
    /// The same where the model's values are in bf16 on one side.
    pub bf16_tolerance: f32,
    /// Computes a case and returns all its output values.
    pub run: fn(&Case, &mut Inputs) -> Vec<f32>,
}

impl Kernel {
    /// The largest distance where the model's values are in `dtype`.
    pub fn tolerance_in(&self, dtype: DType) -> f32 {
        match dtype {
            DType::BF16 => self.bf16_tolerance,
            _ => self.tolerance,
        }
    }
}

/// One set of inputs. What the dimensions mean is the op's own affair.
#[derive(Debug)]
pub struct Case {
    /// Unique within the op.
    pub label: &'static str,
    /// Dimensions of the inputs.
    pub shape: &'static [usize],
    /// Seed of the inputs.
    pub seed: u64,
}

impl Case {
    /// The dimensions as an array.
    ///
    /// # Panics
    /// When the case holds another number of dimensions than the op takes.
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        self.shape.try_into().unwrap_or_else(|_| panic!("case {}: {N} dimensions", self.label))
    }

    /// The first dimensions, and the rest in pairs: cached and query tokens of each sequence.
    ///
    /// # Panics
    /// When the rest are no pairs.
    pub(super) fn dims_and_sequences<const N: usize>(&self) -> ([usize; N], &[[usize; 2]]) {
        let (dims, rest) = self.shape.split_first_chunk::<N>().expect("dimensions");
        let (sequences, odd) = rest.as_chunks();
        assert!(odd.is_empty(), "case {}: pairs for its sequences", self.label);
        (*dims, sequences)
    }
}

/// Source of the random inputs of a case: the same values on every device.
#[derive(Debug)]
pub struct Inputs {
    device: Device,
    state: u64,
    dtype: DType,
    rounded_to: DType,
}

impl Inputs {
    /// Inputs on `device` from `seed`, those that a model keeps in its own dtype in f32.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self::in_dtype(seed, device, DType::F32, DType::F32)
    }

    /// Inputs of which those that a model keeps in its own dtype are in `dtype`, and hold values that
    /// `rounded_to` can.
    pub fn in_dtype(seed: u64, device: &Device, dtype: DType, rounded_to: DType) -> Self {
        Inputs { device: device.clone(), state: seed, dtype, rounded_to }
    }

    /// Where the inputs lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Uniform f32 values in `(-scale, scale)`.
    pub fn floats<const D: usize>(&mut self, shape: [usize; D], scale: f32) -> Tensor<D> {
        let count = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|_| (self.next_unit() as f32 * 2.0 - 1.0) * scale).collect();
        Tensor::from_data(TensorData::new(values, Shape::from(shape)), (&self.device, DType::F32))
    }

    /// As [`Self::floats`], in the dtype that a model is computed in.
    pub fn model_floats<const D: usize>(&mut self, shape: [usize; D], scale: f32) -> Tensor<D> {
        let floats = self.floats(shape, scale);
        floats.cast(self.rounded_to).cast(self.dtype)
    }

    /// Values in `(-1, 1)` for a cache in `format`: multiples of 1/128, which every float dtype
    /// holds exactly, and for FP8 any, because coarse ones would lie between two codes.
    pub(super) fn cached<const D: usize>(
        &mut self,
        shape: [usize; D],
        format: KvFormat,
    ) -> Tensor<D> {
        match format {
            KvFormat::Float(_) => {
                ((self.floats(shape, 1.0) * 128.0).floor() / 128.0).cast(self.dtype)
            }
            KvFormat::Fp8 => self.model_floats(shape, 1.0),
        }
    }

    /// The format of a cache that a case names, or the model's dtype where the device lacks its own:
    /// with coarse inputs that is the same.
    pub(super) fn kv_format(&self, format: usize) -> KvFormat {
        let dtype = match format {
            kv_format::F32 => self.dtype,
            kv_format::BF16 => DType::BF16,
            kv_format::F16 => DType::F16,
            kv_format::FP8 => return KvFormat::Fp8,
            other => panic!("format {other}"),
        };
        KvFormat::Float(if self.device.supports_dtype(dtype) { dtype } else { self.dtype })
    }

    /// Uniform integers below `bound`.
    pub fn ints<const D: usize>(&mut self, shape: [usize; D], bound: usize) -> Tensor<D, Int> {
        let count = shape.iter().product();
        let values: Vec<i32> =
            (0..count).map(|_| (self.next_unit() * bound as f64) as i32).collect();
        Tensor::from_data(TensorData::new(values, Shape::from(shape)), &self.device)
    }

    /// A matrix `[rows, width]` of E4M3 codes of at most ±1.875 with scales up to 0.1, one for
    /// every `group` columns.
    pub fn fp8(
        &mut self,
        [rows, width]: [usize; 2],
        group: usize,
        activations: Activations,
    ) -> Fp8Matrix {
        let words = width.div_ceil(CODES_PER_WORD);
        // Without the highest bit of the exponent no code is NaN.
        let word =
            |inputs: &mut Self| (inputs.next_unit() * (1u64 << 32) as f64) as u32 & 0xbfbf_bfbf;
        let values: Vec<i32> = (0..rows * words).map(|_| word(self).cast_signed()).collect();
        let values = TensorData::new(values, [rows, words]);
        let codes = Tensor::from_data(values, (&self.device, DType::I32));
        let scales = self.floats([rows, width.div_ceil(group)], 0.1).abs();
        Fp8Matrix::new(codes, scales, [width, group], activations)
    }

    /// A matrix `[rows, width]` of codes in groups.
    pub fn groups(&mut self, [rows, width]: [usize; 2], bits: Bits) -> GroupMatrix {
        let values: Vec<f32> = (0..rows * width).map(|_| self.next_unit() as f32 - 0.5).collect();
        let mut held = groups::Rows::new(bits);
        held.append(rows, width, |row, into| {
            into.extend_from_slice(&values[row * width..][..width]);
        });
        groups::upload(held, [rows, width], &self.device)
    }

    /// The values of an output, read back. A kernel that failed reports it only here.
    pub fn values<const D: usize>(&self, output: Tensor<D>) -> Vec<f32> {
        output.into_data().try_into_vec_as::<f32>().expect("float values")
    }

    /// SplitMix64 ([Steele et al. 2014](https://doi.org/10.1145/2660193.2660195)).
    fn next_unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What a cache is stored in, as a dimension of a case.
pub(super) mod kv_format {
    pub(crate) const F32: usize = 0;
    pub(crate) const BF16: usize = 1;
    pub(crate) const F16: usize = 2;
    pub(crate) const FP8: usize = 3;
}

/// Sequences over scattered pages, for the cases of ops that read the cache.
#[derive(Debug)]
pub(super) struct PagedCase {
    /// Pages of all sequences, and the sink.
    pub(super) pages: usize,
    /// Slots of all rows, sequence after sequence.
    pub(super) slots: Tensor<1, Int>,
    /// What the tokens of the step, the last ones of each sequence, may see.
    pub(super) tables: PageTables,
}

impl PagedCase {
    /// Without padding.
    #[cfg(all(test, feature = "cpu"))]
    pub(super) fn new(sequences: &[[usize; 2]], page_size: usize, device: &Device) -> Self {
        Self::padded(sequences, 0, page_size, device)
    }

    /// One `[cached, queries]` for each sequence: tokens before the step and in it; and `padding`
    /// more tokens that belong to none.
    pub(super) fn padded(
        sequences: &[[usize; 2]],
        padding: usize,
        page_size: usize,
        device: &Device,
    ) -> Self {
        let lengths: Vec<usize> = sequences.iter().map(|[cached, new]| cached + new).collect();
        let counts: Vec<usize> = lengths.iter().map(|rows| rows.div_ceil(page_size)).collect();
        let longest = counts.iter().copied().max().unwrap_or(1);
        // Pages go round the sequences from the last one down, so that no slot is a position.
        let mut free = (1..=counts.iter().sum()).rev();
        let mut block_tables = vec![0; sequences.len() * longest];
        for index in 0..longest {
            for (sequence, count) in counts.iter().enumerate() {
                if index < *count {
                    block_tables[sequence * longest + index] = free.next().expect("a page");
                }
            }
        }
        let (mut slots, mut rows, mut positions, mut starts) = (vec![], vec![], vec![], vec![0]);
        for (sequence, ([cached, _], length)) in sequences.iter().zip(&lengths).enumerate() {
            let table = &block_tables[sequence * longest..];
            slots.extend((0..*length).map(|at| table[at / page_size] * page_size + at % page_size));
            positions.extend(*cached..*length);
            rows.resize(positions.len(), sequence);
            starts.push(positions.len());
        }
        let tokens = positions.len() + padding;
        positions.resize(tokens, 0);
        rows.resize(tokens, 0);
        let shape = TileShape::of(tokens, sequences.len());
        let queries = sequences.iter().map(|[_, queries]| *queries);
        let tiles = Tiles::new(queries, shape, tokens);
        let host = |values: Vec<i32>| Tensor::<1, Int>::from_data(values.as_slice(), device);
        let ints =
            |values: Vec<usize>| host(values.into_iter().map(|value| value as i32).collect());
        PagedCase {
            pages: counts.iter().sum::<usize>() + 1,
            slots: ints(slots),
            tables: PageTables {
                sequences: ints(rows),
                positions: ints(positions),
                block_tables: ints(block_tables).reshape([sequences.len(), longest]),
                query_starts: ints(starts),
                lengths: ints(lengths),
                tiles: TileTables {
                    sequences: host(tiles.sequences),
                    tokens: host(tiles.tokens).reshape([shape.count, shape.size]),
                    places: host(tiles.places),
                },
            },
        }
    }
}
