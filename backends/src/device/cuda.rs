//! What CUDA sees: the driver, and the compiler and headers that kernels are built with at run
//! time. Nothing of it is linked; cudarc opens the libraries, and panics where there is none.

use std::path::Path;

use burn::tensor::Device;
use cudarc::driver::{CudaContext, DriverError, result as driver};

use super::probe::guarded;
use super::{BackendKind, Candidate, DeviceError, Memory};

const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
const COMPILER: &str = if cfg!(windows) { "nvrtc64.dll" } else { "libnvrtc.so" };

/// Every GPU that the driver counts.
pub(super) fn candidates() -> Result<Vec<Candidate>, DeviceError> {
    let names = match guarded(gpu_names) {
        Ok(Ok(names)) if names.is_empty() => {
            return Err(absent("the CUDA driver counts no GPU".into(), "check with `nvidia-smi`"));
        }
        Ok(Ok(names)) => names,
        Ok(Err(error)) => {
            let found = format!("the CUDA driver ({DRIVER}) is there but does not start: {error}");
            return Err(absent(found, "check with `nvidia-smi`"));
        }
        Err(_) => {
            let found = format!("no CUDA driver ({DRIVER} not found)");
            return Err(absent(found, "install the NVIDIA driver, and the CUDA toolkit for NVRTC"));
        }
    };
    compiler(&names[0])?;
    let candidates = names.into_iter().enumerate().map(|(index, name)| Candidate {
        kind: BackendKind::Cuda,
        index,
        name: Some(name),
        software: false,
        automatic: true,
        caution: None,
        device: Device::cuda(index),
    });
    Ok(candidates.collect())
}

/// Total and free bytes of GPU `index`, by the driver's count over all programs.
pub(super) fn memory(index: usize) -> Memory {
    let known = guarded(|| CudaContext::new(index).and_then(|context| context.mem_get_info()).ok());
    match known {
        Ok(Some((free, total))) => Memory { total: Some(total as u64), free: Some(free as u64) },
        _ => Memory::default(),
    }
}

/// Panics where the driver's library is missing.
fn gpu_names() -> Result<Vec<String>, String> {
    let names = || -> Result<_, DriverError> {
        driver::init()?;
        let count = driver::device::get_count()?;
        (0..count).map(|index| driver::device::get_name(driver::device::get(index)?)).collect()
    };
    // The explanation comes from the driver too, so it is asked for while the guard holds.
    names().map_err(|error| match error.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), error.0),
        Err(_) => format!("{:?}", error.0),
    })
}

/// CubeCL compiles each kernel with NVRTC; those in bf16 and f16 include the toolkit's headers, and
/// those for tensor cores one that comes with `nvcc` up to CUDA 12 and apart from 13 on.
fn compiler(gpu: &str) -> Result<(), DeviceError> {
    const REMEDY: &str = "install the CUDA toolkit (its nvrtc-dev, cudart-dev and crt packages \
                          are enough; up to 12.9 nvcc in place of crt), \
                          and set CUDA_PATH if it is not in /usr/local/cuda";
    let compiled = guarded(|| {
        let ptx = cudarc::nvrtc::compile_ptx("extern \"C\" __global__ void probe() {}");
        ptx.map(drop).map_err(|error| error.to_string())
    });
    let lacking =
        |what: String| absent(format!("the driver and {gpu} are there, but {what}"), REMEDY);
    match compiled {
        Err(_) => return Err(lacking(format!("not NVRTC ({COMPILER} not found)"))),
        Ok(Err(error)) => return Err(lacking(format!("NVRTC does not compile: {error}"))),
        Ok(Ok(())) => {}
    }
    match cubecl::cuda::install::cuda_path() {
        None => Err(lacking(
            "not the CUDA headers (looked in CUDA_PATH, /usr/local/cuda, /opt/cuda)".into(),
        )),
        Some(toolkit) => match missing_header(&toolkit.join("include")) {
            Some(header) => Err(lacking(format!("not the CUDA header {header}"))),
            None => Ok(()),
        },
    }
}

/// The first header that kernels include and `folder` does not have, with its path.
fn missing_header(folder: &Path) -> Option<String> {
    let headers = ["cuda_fp16.h", "cuda_bf16.h", "crt/mma.h"].map(|name| folder.join(name));
    headers.iter().find(|path| !path.exists()).map(|path| path.display().to_string())
}

fn absent(found: String, remedy: &str) -> DeviceError {
    DeviceError::Absent { kind: BackendKind::Cuda, found, remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_header_is_named() {
        let folder = Path::new("/no/such/toolkit/include");
        let missing = missing_header(folder).unwrap();
        assert!(missing.ends_with("cuda_fp16.h"), "{missing}");
    }
}
