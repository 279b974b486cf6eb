//! Which way an op is computed.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Device};

/// A way to compute an op on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// By a kernel of ours.
    Kernel,
    /// By a kernel of ours for steps of few tokens, by Burn's own for the others.
    KernelForFew,
    /// By Burn's own kernels, as the reference says.
    Reference,
}

impl Path {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Kernel => "kernel",
            Path::KernelForFew => "kernel for few tokens",
            Path::Reference => "reference",
        }
    }
}

/// How an op is computed on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpPath {
    /// Name of the op.
    pub op: &'static str,
    /// Which way it takes.
    pub path: Path,
    /// What of the device it uses.
    pub how: String,
}

/// How each op of [`KERNELS`](super::KERNELS) is computed on a device in a float dtype.
pub fn paths(device: &Device, dtype: DType) -> Vec<OpPath> {
    let path = |op: &'static str| {
        #[cfg(feature = "cube")]
        if takes_kernels(device) {
            let (path, how) = on_gpu(op, crate::cube::Abilities::of_device(device), dtype);
            return OpPath { op, path, how };
        }
        let (path, how) = without_gpu(op, device, dtype);
        OpPath { op, path, how }
    };
    super::KERNELS.iter().map(|kernel| path(kernel.name)).collect()
}

#[cfg(feature = "cube")]
fn on_gpu(op: &str, abilities: crate::cube::Abilities, dtype: DType) -> (Path, String) {
    let sums = match abilities.plane {
        Some(plane) => format!("sums in planes of {plane}"),
        None => "sums in shared memory".to_owned(),
    };
    let codes = if abilities.e4m3 { "E4M3 in hardware" } else { "E4M3 in registers" };
    let matrices = match abilities.multiplies(dtype) {
        true => "many tokens on matrix units of 16 x 16 x 16",
        false => "many tokens in plain tiles",
    };
    let with_codes = match abilities.codes {
        true => ", codes with codes on matrix units of 16 x 8 x 32",
        false => "",
    };
    let queries = match abilities.products_of(dtype) {
        true => ", queries on matrix units of 16 x 8 x 16",
        false => "",
    };
    match op {
        "paged_attention" | "mla_attention" => (Path::Kernel, format!("{sums}{queries}")),
        "linear" => (
            Path::KernelForFew,
            format!(
                "{sums}, {codes}; past 16 tokens the product of matrices that Burn tunes{with_codes}"
            ),
        ),
        "moe_experts" => (Path::Kernel, format!("{sums}, {codes}; {matrices}{with_codes}")),
        "embedding" | "swiglu" => (Path::Kernel, "a unit for each vector".to_owned()),
        _ => (Path::Kernel, sums),
    }
}

/// On the CPU, or where references were asked for.
fn without_gpu(op: &str, device: &Device, dtype: DType) -> (Path, String) {
    let burn = || (Path::Reference, "Burn's operations".to_owned());
    #[cfg(feature = "cpu")]
    if super::flex::computes_on(device) {
        let isa = crate::cpu::Isa::current().name();
        let vectors = |what: &str| format!("{isa}{what}");
        return match op {
            _ if references_only() => burn(),
            "linear" | "moe_experts" if dtype == DType::F32 => {
                (Path::Kernel, vectors(", weights in the type in which they are held"))
            }
            "kv_write" | "paged_attention" | "sample" => (Path::Kernel, vectors("")),
            "gqa_write" | "mla_attention" | "mla_write" | "moe_route" | "rms_norm" | "swiglu"
                if dtype == DType::F32 =>
            {
                (Path::Kernel, vectors(""))
            }
            _ => burn(),
        };
    }
    let _ = (op, device, dtype);
    burn()
}

static REFERENCE_ONLY: AtomicBool = AtomicBool::new(false);

/// Has devices compute all ops by their references, for the whole process: to find out whether wrong
/// numbers come from a kernel. Nothing does so unasked.
pub fn use_reference_only(asked: bool) {
    REFERENCE_ONLY.store(asked, Ordering::Relaxed);
}

/// Whether references were asked for.
pub(super) fn references_only() -> bool {
    REFERENCE_ONLY.load(Ordering::Relaxed)
}

/// Whether kernels of the CPU widen weights on their way when activations are in `dtype`, so that
/// matrices can stay in the type in which they are stored.
#[must_use]
pub fn widens_weights(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "cpu")]
    let widens = super::flex::takes(device, dtype);
    #[cfg(not(feature = "cpu"))]
    let (widens, _, _) = (false, device, dtype);
    widens
}

/// Whether ops take kernels on a device: on all that CubeCL runs on, unless references were asked
/// for.
#[must_use]
pub fn takes_kernels(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    let has_kernels = crate::cube::computes_on(device);
    #[cfg(not(feature = "cube"))]
    let (has_kernels, _) = (false, device);
    has_kernels && !references_only()
}
