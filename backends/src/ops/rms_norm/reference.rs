use burn::tensor::{DType, Tensor};

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = x.cast(DType::F32);
    let inverse = (wide.clone().square().mean_dim(-1) + eps).sqrt().recip();
    (wide * inverse).cast(dtype) * weight.unsqueeze()
}
