use burn::tensor::{Device, Int, Tensor};

/// Which cached rows each token of a step may see. All fields are device tensors of a fixed
/// shape, so that a captured step can be replayed with new contents.
#[derive(Debug)]
pub struct PageTables {
    /// Sequence row of each token, `[tokens]`; a padded token belongs to sequence 0.
    pub sequences: Tensor<1, Int>,
    /// Position of each token in its sequence, `[tokens]`; 0 for a padded token.
    pub positions: Tensor<1, Int>,
    /// Pages of each sequence in order, `[sequences, pages]`, filled up with the sink.
    pub block_tables: Tensor<2, Int>,
    /// First token of each sequence and one past the last, `[sequences + 1]`.
    pub query_starts: Tensor<1, Int>,
    /// Tokens of each sequence in the cache once this step is done, `[sequences]`.
    pub lengths: Tensor<1, Int>,
    /// The tokens, cut into pieces of one sequence each.
    pub tiles: TileTables,
}

/// How the tokens of a step are cut into tiles of equal size, so that tokens meet the rows of their
/// own sequence only and the products still have a fixed shape.
#[derive(Debug)]
pub struct TileTables {
    /// Sequence row of each tile, `[tiles]`; 0 for a padded tile.
    pub sequences: Tensor<1, Int>,
    /// Tokens of each tile, `[tiles, size]`; padded with token 0.
    pub tokens: Tensor<2, Int>,
    /// Where each token is found among the tiles' places, `[tokens]`; 0 for a padded token.
    pub places: Tensor<1, Int>,
}

impl TileTables {
    /// Tables of padding.
    pub fn zeros(shape: TileShape, tokens: usize, device: &Device) -> Self {
        TileTables {
            sequences: Tensor::zeros([shape.count], device),
            tokens: Tensor::zeros([shape.count, shape.size], device),
            places: Tensor::zeros([tokens], device),
        }
    }
}

/// Number and size of the tiles of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileShape {
    /// Tiles, padding included.
    pub count: usize,
    /// Tokens of a tile, padding included.
    pub size: usize,
}

impl TileShape {
    /// Tiles for any way in which at most `tokens` are divided over at most `sequences`: about as
    /// large as a sequence's share, so that one sequence is one tile and decoding has tiles of one
    /// token. Less than three times `tokens` fit all tiles together.
    pub fn of(tokens: usize, sequences: usize) -> Self {
        let size = match sequences {
            1 => tokens,
            _ => tokens.div_ceil(sequences).next_power_of_two(),
        };
        // Each sequence may leave all but one place of its last tile empty.
        TileShape { count: (tokens + sequences * (size - 1)) / size, size }
    }

    /// Places of all tiles.
    pub fn places(self) -> usize {
        self.count * self.size
    }
}

/// The contents of [`TileTables`] on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    /// `[tiles]`
    pub sequences: Vec<i32>,
    /// `[tiles, size]`
    pub tokens: Vec<i32>,
    /// `[tokens]`
    pub places: Vec<i32>,
}

impl Tiles {
    /// The tiles of sequences with `counts` tokens each, which lie one after the other; `tokens` is
    /// their number with padding.
    ///
    /// # Panics
    /// When they do not fit the shape.
    pub fn new(counts: impl IntoIterator<Item = usize>, shape: TileShape, tokens: usize) -> Self {
        let mut tiles = Tiles {
            sequences: Vec::with_capacity(shape.count),
            tokens: Vec::with_capacity(shape.places()),
            places: Vec::with_capacity(tokens),
        };
        for (sequence, count) in counts.into_iter().enumerate() {
            for offset in 0..count {
                if offset % shape.size == 0 {
                    // The last tile of the sequence before ends here.
                    tiles.tokens.resize(tiles.sequences.len() * shape.size, 0);
                    tiles.sequences.push(sequence as i32);
                }
                let token = tiles.places.len() as i32;
                tiles.places.push(tiles.tokens.len() as i32);
                tiles.tokens.push(token);
            }
        }
        let fits = tiles.sequences.len() <= shape.count && tiles.places.len() <= tokens;
        assert!(fits, "tokens within {shape:?}");
        tiles.sequences.resize(shape.count, 0);
        tiles.tokens.resize(shape.places(), 0);
        tiles.places.resize(tokens, 0);
        tiles
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sequence_is_one_tile_and_a_decoded_token_is_one() {
        assert_eq!(TileShape::of(300, 1), TileShape { count: 1, size: 300 });
        assert_eq!(TileShape::of(16, 16), TileShape { count: 16, size: 1 });
        // A chunk of 256 among 15 that decode, padded to 320: 8 tiles and 15.
        assert_eq!(TileShape::of(320, 16), TileShape { count: 25, size: 32 });
    }

    #[test]
    fn tokens_are_cut_where_a_sequence_or_a_tile_ends() {
        let tiles = Tiles::new([3, 1], TileShape { count: 4, size: 2 }, 6);
        assert_eq!(tiles.sequences, [0, 0, 1, 0]);
        assert_eq!(tiles.tokens, [0, 1, 2, 0, 3, 0, 0, 0]);
        assert_eq!(tiles.places, [0, 1, 2, 4, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_division_fits(counts in prop::collection::vec(1..200_usize, 1..20), more: bool) {
            let tokens: usize = counts.iter().sum::<usize>() + usize::from(more);
            let shape = TileShape::of(tokens, counts.len());
            prop_assert!(shape.places() < 3 * tokens);
            let tiles = Tiles::new(counts.iter().copied(), shape, tokens);
            let mut token = 0;
            for (sequence, count) in counts.into_iter().enumerate() {
                for _ in 0..count {
                    let place = tiles.places[token as usize] as usize;
                    prop_assert_eq!(tiles.tokens[place], token);
                    prop_assert_eq!(tiles.sequences[place / shape.size], sequence as i32);
                    token += 1;
                }
            }
        }
    }
}
