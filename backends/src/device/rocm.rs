//! What ROCm sees: HIP and hipRTC, opened at run time, and `hipconfig`, which CubeCL calls for
//! the headers' folder each time that it compiles a kernel.
//!
//! cubecl-hip-sys aborts the process when HIP lacks a function that is called, so what is too
//! old has to be refused before that.

use std::fs;
use std::path::Path;
use std::process::Command;

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
    if let Err(lacking) = toolchain(hipconfig) {
        let found = format!("the ROCm runtime is there, but {lacking}");
        return Err(absent(&found, "install ROCm 7's hipcc and hip-dev, and add its bin to PATH"));
    }
    let candidates = (0..count).map(|index| Candidate {
        kind: BackendKind::Rocm,
        index,
        name: None,
        software: false,
        automatic: true,
        caution: None,
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

/// What kernels are compiled with: HIP 6 or newer, and its headers where `hipconfig` says.
fn toolchain(hipconfig: impl Fn(&str) -> Result<String, String>) -> Result<(), String> {
    let version = hipconfig("--version")?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 6) {
        return Err(format!("its version is {version:?}, and 6.0 or newer is needed"));
    }
    let header = Path::new(&hipconfig("-p")?).join("include/hip/hip_bf16.h");
    match header.exists() {
        true => Ok(()),
        false => Err(format!("not its header {}", header.display())),
    }
}

/// What `hipconfig` prints for `question`.
fn hipconfig(question: &str) -> Result<String, String> {
    let output = Command::new("hipconfig").arg(question).output();
    let output = output.map_err(|error| format!("`hipconfig` cannot be run ({error})"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
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
    fn what_kernels_cannot_be_compiled_with_is_named() {
        let answer = |version: &'static str| {
            move |question: &str| match question {
                "--version" => Ok(version.to_owned()),
                _ => Ok("/no/such/rocm".to_owned()),
            }
        };
        for (version, message) in [
            (
                "5.7.31921-1949b1621",
                "its version is \"5.7.31921-1949b1621\", and 6.0 or newer is needed",
            ),
            ("", "its version is \"\", and 6.0 or newer is needed"),
            ("7.1.52802-26aae437f", "not its header /no/such/rocm/include/hip/hip_bf16.h"),
        ] {
            assert_eq!(toolchain(answer(version)).unwrap_err(), message);
        }
    }
}
