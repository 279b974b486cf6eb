use burn::tensor::{Int, Tensor};

pub(super) fn embedding(table: Tensor<2>, token_ids: Tensor<1, Int>) -> Tensor<2> {
    table.select(0, token_ids)
}
