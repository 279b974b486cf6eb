//! What ROCm sees: HIP and hipRTC, opened at run time, and `hipconfig`, which CubeCL calls for
//! the headers' folder each time that it compiles a kernel.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use burn::tensor::{Device, DeviceType};

use super::probe::{self, guarded};
use super::{BackendKind, Candidate, DeviceError, Memory};

/// Every GPU that HIP counts. Their names are known once they are started.
pub(super) fn candidates() -> Result<Vec<Candidate>, DeviceError> {
    if !cubecl_hip_sys::is_available() {
        return Err(absent(
            "no ROCm runtime (libamdhip64.so and libhiprtc.so not found)",
            "install ROCm 7 (hip-runtime-amd, hip-dev), or set ROCM_PATH where it is",
        ));
    }
    let count = guarded(|| Device::enumerate(DeviceType::Rocm).len()).unwrap_or(0);
    if count == 0 {
        return Err(absent(
            "the ROCm runtime counts no GPU",
            "check with `rocminfo`, and that this user may open /dev/kfd",
        ));
    }
    if let Err(found) = headers(Command::new("hipconfig").arg("-p").output()) {
        return Err(absent(&found, "install ROCm's hipcc and hip-dev, and add its bin to PATH"));
    }
    let candidates = (0..count).map(|index| Candidate {
        kind: BackendKind::Rocm,
        index,
        name: None,
        software: false,
        automatic: true,
        device: Device::rocm(index),
    });
    Ok(candidates.collect())
}

/// Total bytes as HIP states them. Free ones as the Linux driver counts them: HIP's own figure
/// has no safe binding.
pub(super) fn memory(device: &Device) -> Memory {
    let known = guarded(|| {
        let physical = device.identity().and_then(|identity| identity.physical);
        let address = physical.and_then(|physical| physical.pci_address);
        let free = address.and_then(|address| {
            free_memory(&Path::new("/sys/bus/pci/devices").join(address.to_string()))
        });
        Memory { total: probe::total_memory(device), free }
    });
    known.unwrap_or_default()
}

/// Whether `hipconfig -p` names a folder with HIP's headers.
fn headers(answer: io::Result<std::process::Output>) -> Result<(), String> {
    let there = "the ROCm runtime is there, but";
    let output = answer.map_err(|error| format!("{there} `hipconfig` cannot be run ({error})"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let header = Path::new(&folder).join("include/hip/hip_bf16.h");
    match header.exists() {
        true => Ok(()),
        false => Err(format!("{there} not its header {}", header.display())),
    }
}

/// Bytes of video memory that the amdgpu driver has left, from its files in `folder`.
fn free_memory(folder: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    read("mem_info_vram_total")?.checked_sub(read("mem_info_vram_used")?)
}

fn absent(found: &str, remedy: &str) -> DeviceError {
    DeviceError::Absent { kind: BackendKind::Rocm, found: found.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_total_less_used() {
        let folder = std::env::temp_dir().join(format!("glm-amdgpu-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(free_memory(&folder), None);
        fs::write(folder.join("mem_info_vram_total"), "1000\n").unwrap();
        fs::write(folder.join("mem_info_vram_used"), "400\n").unwrap();
        assert_eq!(free_memory(&folder), Some(600));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_hipconfig_is_named() {
        let error = io::Error::new(io::ErrorKind::NotFound, "no such file");
        assert_eq!(
            headers(Err(error)).unwrap_err(),
            "the ROCm runtime is there, but `hipconfig` cannot be run (no such file)"
        );
    }
}
