//! The product of matrices, where no kernel of ours is made for it.

#[cfg(feature = "cube")]
use burn::tensor::DType;
use burn::tensor::Tensor;

/// `a · b`, with the axes before the last two as a batch.
///
/// In f32 on GPUs without tensor cores: Burn's search for the fastest kernel would take those, which
/// round f32 to the 10 bits of TF32. The router's logits choose experts, and a model in f32 is asked
/// for where bf16 is not exact enough.
pub(super) fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if a.dtype() == DType::F32 && crate::cube::computes_on(&a.device()) {
        return exact(a, b);
    }
    a.matmul(b)
}

#[cfg(feature = "cube")]
fn exact<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    use burn_cubecl::kernel::matmul::init_matmul_output;
    use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
    use cubek::matmul::multi_level::Strategy;
    use cubek::std::InputBinding;

    use crate::cube;

    let elem = cube::elem(DType::F32);
    let (a, b) = (cube::strided(a), cube::strided(b));
    let out = init_matmul_output(&a, &b, DType::F32);
    let launch = |strategy: Strategy| {
        let globals = MatmulGlobalElems { lhs: elem, rhs: elem, out: elem };
        cubek::matmul::launch::launch_ref(
            &strategy.into(),
            &out.client,
            InputBinding::new(a.clone().binding(), elem),
            InputBinding::new(b.clone().binding(), elem),
            out.clone().binding(),
            &mut MatmulElems::from_globals(&globals),
        )
    };
    let tiled = launch(Strategy::SimpleUnit(Default::default()));
    if let Err(error) = tiled.or_else(|_| launch(Strategy::Naive)) {
        panic!("a product of matrices in f32: {error:?}");
    }
    cube::tensor(out)
}
