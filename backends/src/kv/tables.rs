use burn::tensor::{Int, Tensor};

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
}
