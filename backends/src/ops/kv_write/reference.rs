use burn::tensor::{IndexingUpdateOp, Int, Tensor};

pub(super) fn kv_write(pages: Tensor<2>, rows: Tensor<2>, slots: Tensor<1, Int>) -> Tensor<2> {
    let dtype = pages.dtype();
    pages.select_assign(0, slots, rows.cast(dtype), IndexingUpdateOp::Assign)
}
