//! The product of matrices in the references.

use burn::tensor::Tensor;
#[cfg(feature = "wgpu")]
use burn::{backend::DispatchDevice, tensor::Device};

/// `a · b`, with the axes before the last two as a batch.
///
/// For a single row, Burn's search for the fastest kernel tries one that needs subgroups. OpenGL has
/// none; the kernel does not compile there, and on a busy machine the search may miss that and take
/// it. So one row is computed as two on OpenGL.
pub(super) fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "wgpu")]
    if a.dims()[D - 2] == 1 && is_opengl(&a.device()) {
        return Tensor::cat(vec![a.clone(), a], D - 2).matmul(b).narrow(D - 2, 0, 1);
    }
    a.matmul(b)
}

#[cfg(feature = "wgpu")]
fn is_opengl(device: &Device) -> bool {
    use cubecl::wgpu::WgpuBackend;
    matches!(
        device.as_dispatch(),
        DispatchDevice::Cube(cubecl::Device::Wgpu(device)) if device.backend == WgpuBackend::Gl
    )
}
