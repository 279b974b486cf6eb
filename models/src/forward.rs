//! What a step computes: token ids, positions and page slots as device tensors.
//!
//! A batch has one of a few shapes and is filled anew for each step, so that a captured step can
//! be replayed. No op takes a host list or a scalar that changes from step to step.

use burn::tensor::{Device, Int, Tensor, TensorData, s};
use glm_backends::graph::BufferId;
use glm_backends::kv::{PageTables, TileShape, TileTables, Tiles};

/// Lengths of a batch's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Rows of the step, padding included.
    pub tokens: usize,
    /// Sequences, padding included.
    pub sequences: usize,
    /// Pages of the longest block table, padding included.
    pub pages: usize,
}

impl BatchShape {
    /// The smallest shape of the few that are used which holds the given lengths: powers of two,
    /// and above 64 tokens multiples of 64, because padded rows of a prefill cost real work.
    pub fn holding(tokens: usize, sequences: usize, pages: usize) -> Self {
        let tokens = match tokens {
            0..=64 => tokens.next_power_of_two(),
            _ => tokens.next_multiple_of(64),
        };
        BatchShape {
            tokens,
            sequences: sequences.next_power_of_two(),
            pages: pages.next_power_of_two(),
        }
    }

    /// How the tokens are cut into tiles of one sequence each.
    pub fn tiles(&self) -> TileShape {
        TileShape::of(self.tokens, self.sequences)
    }
}

/// One sequence's share of a step, in plain integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceInput {
    /// Tokens to compute.
    pub tokens: Vec<u32>,
    /// Tokens of the sequence that are in the cache already.
    pub computed: usize,
    /// Pages of the sequence in order, enough for `computed + tokens.len()` tokens.
    pub pages: Vec<u32>,
}

/// The inputs of one step on the device.
#[derive(Debug)]
pub struct ForwardBatch {
    shape: BatchShape,
    page_size: usize,
    /// `[tokens]`
    pub token_ids: Tensor<1, Int>,
    /// Where each token's row of the cache goes, `[tokens]`; in the sink page for padding.
    pub slots: Tensor<1, Int>,
    /// 1 for a token, 0 for padding, `[tokens]`.
    pub live: Tensor<1, Int>,
    /// Last token of each sequence, `[sequences]`; row 0 for a padded sequence.
    pub last_rows: Tensor<1, Int>,
    /// What each token may attend to.
    pub tables: PageTables,
}

impl ForwardBatch {
    /// A batch of padding.
    pub fn new(shape: BatchShape, page_size: usize, device: &Device) -> Self {
        let zeros = |length| Tensor::<1, Int>::zeros([length], device);
        ForwardBatch {
            shape,
            page_size,
            token_ids: zeros(shape.tokens),
            slots: zeros(shape.tokens),
            live: zeros(shape.tokens),
            last_rows: zeros(shape.sequences),
            tables: PageTables {
                sequences: zeros(shape.tokens),
                positions: zeros(shape.tokens),
                block_tables: Tensor::zeros([shape.sequences, shape.pages], device),
                query_starts: zeros(shape.sequences + 1),
                lengths: zeros(shape.sequences),
                tiles: TileTables::zeros(shape.tiles(), shape.tokens, device),
            },
        }
    }

    /// Lengths of the tensors, padding included.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Tokens per page of the cache that the slots refer to.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Fills the batch for a step over `sequences`.
    ///
    /// # Panics
    /// When they do not fit the shape, or a sequence has too few pages.
    pub fn fill(&mut self, sequences: &[SequenceInput]) {
        let rows = Rows::new(sequences, self.shape, self.page_size);
        write(&mut self.token_ids, rows.token_ids);
        write(&mut self.slots, rows.slots);
        write(&mut self.live, rows.live);
        write(&mut self.last_rows, rows.last_rows);
        write(&mut self.tables.sequences, rows.sequences);
        write(&mut self.tables.positions, rows.positions);
        write(&mut self.tables.block_tables, rows.block_tables);
        write(&mut self.tables.query_starts, rows.query_starts);
        write(&mut self.tables.lengths, rows.lengths);
        write(&mut self.tables.tiles.sequences, rows.tiles.sequences);
        write(&mut self.tables.tiles.tokens, rows.tiles.tokens);
        write(&mut self.tables.tiles.places, rows.tiles.places);
    }

    /// Takes token ids that lie on the device already, `[tokens]`.
    pub fn set_token_ids(&mut self, token_ids: Tensor<1, Int>) {
        overwrite(&mut self.token_ids, token_ids);
    }

    /// Moves every sequence on by `shift [sequences]` positions, at most to `last`: its rows,
    /// its length and where it writes. The host need not know how far.
    pub fn shift(&mut self, shift: Tensor<1, Int>, last: usize) {
        let PageTables { sequences, positions, block_tables, lengths, .. } = &mut self.tables;
        let page_size = self.page_size as i64;
        let [_, width] = block_tables.dims();
        let live = &self.live;
        let by_row = shift.clone().select(0, sequences.clone()) * live.clone();
        overwrite(positions, (positions.clone() + by_row).clamp_max(last as i64));
        overwrite(lengths, (lengths.clone() + shift).clamp_max(last as i64 + 1));
        let entry = positions.clone().div_scalar(page_size).clamp_max(width as i64 - 1)
            + sequences.clone() * width as i64;
        let page = block_tables.clone().reshape([-1]).select(0, entry);
        let slots = page * page_size + positions.clone().remainder_scalar(page_size);
        let padding = live.clone().equal_elem(0);
        let slots = slots.mask_where(padding, self.slots.clone());
        overwrite(&mut self.slots, slots);
    }

    /// The buffers that the batch lies in. They stay the same, however it is filled.
    pub fn buffers(&self) -> Vec<BufferId> {
        let PageTables { sequences, positions, block_tables, query_starts, lengths, tiles } =
            &self.tables;
        let rows = [
            &self.token_ids,
            &self.slots,
            &self.live,
            &self.last_rows,
            sequences,
            positions,
            query_starts,
            lengths,
            &tiles.sequences,
            &tiles.places,
        ];
        let rows = rows.into_iter().map(BufferId::of_ints);
        rows.chain([block_tables, &tiles.tokens].map(BufferId::of_ints)).collect()
    }
}

/// Writes `values` to where a tensor lies.
fn overwrite(target: &mut Tensor<1, Int>, values: Tensor<1, Int>) {
    target.inplace(|held| held.slice_assign(s![..], values));
}

/// Overwrites a tensor with host values of the same length.
fn write<const D: usize>(target: &mut Tensor<D, Int>, values: Vec<i32>) {
    let shape = target.dims();
    let values = Tensor::from_data(TensorData::new(values, shape), &target.device());
    target.inplace(|held| held.slice_assign(shape.map(|length| 0..length), values));
}

/// The contents of a batch on the host.
struct Rows {
    token_ids: Vec<i32>,
    slots: Vec<i32>,
    live: Vec<i32>,
    last_rows: Vec<i32>,
    sequences: Vec<i32>,
    positions: Vec<i32>,
    block_tables: Vec<i32>,
    query_starts: Vec<i32>,
    lengths: Vec<i32>,
    tiles: Tiles,
}

impl Rows {
    fn new(inputs: &[SequenceInput], shape: BatchShape, page_size: usize) -> Self {
        let mut rows = Rows {
            token_ids: Vec::with_capacity(shape.tokens),
            slots: Vec::with_capacity(shape.tokens),
            live: Vec::with_capacity(shape.tokens),
            last_rows: Vec::with_capacity(shape.sequences),
            sequences: Vec::with_capacity(shape.tokens),
            positions: Vec::with_capacity(shape.tokens),
            block_tables: vec![0; shape.sequences * shape.pages],
            query_starts: vec![0],
            lengths: Vec::with_capacity(shape.sequences),
            tiles: Tiles::new(
                inputs.iter().map(|input| input.tokens.len()),
                shape.tiles(),
                shape.tokens,
            ),
        };
        for (index, input) in inputs.iter().enumerate() {
            let table = &mut rows.block_tables[index * shape.pages..(index + 1) * shape.pages];
            for (entry, page) in table.iter_mut().zip(&input.pages) {
                *entry = *page as i32;
            }
            for (offset, token) in input.tokens.iter().enumerate() {
                let position = input.computed + offset;
                let page = input.pages[position / page_size] as usize;
                rows.token_ids.push(*token as i32);
                rows.slots.push((page * page_size + position % page_size) as i32);
                rows.live.push(1);
                rows.sequences.push(index as i32);
                rows.positions.push(position as i32);
            }
            rows.query_starts.push(rows.token_ids.len() as i32);
            rows.last_rows.push(rows.token_ids.len() as i32 - 1);
            rows.lengths.push((input.computed + input.tokens.len()) as i32);
        }
        let tokens = rows.token_ids.len();
        assert!(tokens <= shape.tokens && inputs.len() <= shape.sequences, "step within {shape:?}");

        // Padding: rows of the sink page in turn, so that few of them collide.
        rows.slots.extend((tokens..shape.tokens).map(|row| (row % page_size) as i32));
        for column in
            [&mut rows.token_ids, &mut rows.live, &mut rows.sequences, &mut rows.positions]
        {
            column.resize(shape.tokens, 0);
        }
        rows.query_starts.resize(shape.sequences + 1, tokens as i32);
        rows.last_rows.resize(shape.sequences, 0);
        rows.lengths.resize(shape.sequences, 0);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_shapes_hold_every_step() {
        let tokens = |tokens| BatchShape::holding(tokens, 1, 1).tokens;
        assert_eq!([1, 3, 33, 64, 65, 300].map(tokens), [1, 4, 64, 64, 128, 320]);
        assert_eq!(BatchShape::holding(7, 3, 5), BatchShape { tokens: 8, sequences: 4, pages: 8 });
    }

    #[test]
    fn ragged_sequences_are_laid_out_and_padded() {
        let inputs = [
            SequenceInput { tokens: vec![11, 12], computed: 3, pages: vec![5, 2] },
            SequenceInput { tokens: vec![21], computed: 0, pages: vec![7] },
        ];
        let rows = Rows::new(&inputs, BatchShape { tokens: 4, sequences: 4, pages: 2 }, 4);
        assert_eq!(rows.token_ids, [11, 12, 21, 0]);
        // Position 3 is the last row of page 5, position 4 the first of page 2.
        assert_eq!(rows.slots, [23, 8, 28, 3]);
        assert_eq!(rows.live, [1, 1, 1, 0]);
        assert_eq!(rows.sequences, [0, 0, 1, 0]);
        assert_eq!(rows.positions, [3, 4, 0, 0]);
        assert_eq!(rows.block_tables, [5, 2, 7, 0, 0, 0, 0, 0]);
        assert_eq!(rows.query_starts, [0, 2, 3, 3, 3]);
        assert_eq!(rows.last_rows, [1, 2, 0, 0]);
        assert_eq!(rows.lengths, [5, 1, 0, 0]);
        assert_eq!(rows.tiles, Tiles::new([2, 1], TileShape { count: 4, size: 1 }, 4));
    }

    /// A batch that is shifted on the device equals one that the host fills with the sums.
    #[test]
    #[cfg(feature = "cpu")]
    fn a_shift_is_what_the_host_would_have_filled() {
        let device = Device::flex();
        let shape = BatchShape { tokens: 4, sequences: 4, pages: 4 };
        let inputs = |by: [usize; 2]| {
            [
                SequenceInput { tokens: vec![1, 2], computed: 2 + by[0], pages: vec![5, 2, 3] },
                SequenceInput { tokens: vec![3], computed: 7 + by[1], pages: vec![7, 4, 6] },
            ]
        };
        let mut shifted = ForwardBatch::new(shape, 4, &device);
        shifted.fill(&inputs([0, 0]));
        shifted.shift(Tensor::from_data([3, 1, 0, 0], &device), 100);
        let mut filled = ForwardBatch::new(shape, 4, &device);
        filled.fill(&inputs([3, 1]));
        let read = |batch: &ForwardBatch| {
            [&batch.slots, &batch.tables.positions, &batch.tables.lengths]
                .map(|tensor| tensor.to_data().try_to_vec_as::<i64>().unwrap())
        };
        assert_eq!(read(&shifted), read(&filled));

        // No further than the last position there is.
        shifted.shift(Tensor::from_data([9, 9, 0, 0], &device), 8);
        assert_eq!(read(&shifted)[1], [8, 8, 8, 0]);
        assert_eq!(read(&shifted)[2], [9, 9, 0, 0]);
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn token_ids_of_the_device_replace_the_hosts() {
        let device = Device::flex();
        let shape = BatchShape { tokens: 4, sequences: 1, pages: 1 };
        let mut batch = ForwardBatch::new(shape, 4, &device);
        batch.fill(&[SequenceInput { tokens: vec![1, 2], computed: 0, pages: vec![1] }]);
        batch.set_token_ids(Tensor::from_data([9, 8, 7, 0], &device));
        let ids = batch.token_ids.to_data().try_to_vec_as::<i64>().unwrap();
        assert_eq!(ids, [9, 8, 7, 0]);
    }
}
