//! Which way an op is computed.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

/// A way to compute an op on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// By a kernel of ours.
    Kernel,
    /// By Burn's own kernels, as the reference says.
    Reference,
}

static REFERENCE_ONLY: AtomicBool = AtomicBool::new(false);

/// Has GPUs compute all ops by their references, for the whole process: to find out whether wrong
/// numbers come from a kernel. Nothing does so unasked.
pub fn use_reference_only(asked: bool) {
    REFERENCE_ONLY.store(asked, Ordering::Relaxed);
}

/// Whether ops take kernels on a device: on all that CubeCL runs on, unless references were asked
/// for.
#[must_use]
pub fn takes_kernels(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    let has_kernels = crate::cube::computes_on(device);
    #[cfg(not(feature = "cube"))]
    let (has_kernels, _) = (false, device);
    has_kernels && !REFERENCE_ONLY.load(Ordering::Relaxed)
}
