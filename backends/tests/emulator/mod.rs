//! CUDA without a GPU: a driver and a compiler that run CubeCL's kernels on the host, and tests that
//! start themselves again with these in place of NVIDIA's.
//!
//! `driver.cpp` is `libcuda`, `compiler.cpp` is `libnvrtc`, `threads.hpp` runs the threads of a block,
//! and `host.hpp`, `device.hpp` and `matrices.hpp` are what kernels see. Everything above them is what a GPU would get: CubeCL's CUDA
//! runtime, its memory and graphs, and the CUDA C++ of each kernel, whose values in bf16, planes,
//! E4M3 and tensor cores no other device of a test machine has. What they cannot show is speed, races
//! between blocks, and what `ptxas` makes of the text.

#![expect(clippy::disallowed_methods, reason = "the C++ compiler is the environment's")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs test `name` of this file again, with the emulated device as its GPU; says why not where it
/// cannot be built.
///
/// # Panics
/// When the test fails there.
pub(crate) fn run_again(name: &str, variables: &[(&str, &str)]) {
    let folder = match built() {
        Ok(folder) => folder,
        Err(reason) => {
            drop(writeln!(std::io::stderr(), "skipped: no emulated GPU: {reason}"));
            return;
        }
    };
    let this = std::env::current_exe().expect("the path of this program");
    let status = Command::new(this)
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env("LD_LIBRARY_PATH", &folder)
        .env("CUDA_PATH", &folder)
        .env("GLM_EMULATOR_FOLDER", &folder)
        .env("GLM_TEST_DEVICE", "cuda")
        .envs(variables.iter().copied())
        .status();
    assert!(status.expect("this program starts").success(), "{name} fails on the emulated GPU");
}

/// The folder of both libraries and of what kernels include.
fn built() -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("it runs on Linux on x86-64 only".into());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-gpu");
    let headers = folder.join("include").join("crt");
    std::fs::create_dir_all(&headers).map_err(|error| error.to_string())?;
    // What glm looks for before it takes a GPU; kernels get `device.hpp` instead.
    for header in ["cuda_fp16.h", "cuda_bf16.h", "crt/mma.h"] {
        write(&folder.join("include").join(header), "")?;
    }
    let seen =
        concat!(include_str!("host.hpp"), include_str!("device.hpp"), include_str!("matrices.hpp"));
    write(&folder.join("device.hpp"), seen)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("emulator");
    for (source, library) in [("driver.cpp", "libcuda.so"), ("compiler.cpp", "libnvrtc.so")] {
        compile(&sources.join(source), &folder.join(library))?;
    }
    Ok(folder)
}

fn compile(source: &Path, library: &Path) -> Result<(), String> {
    // Another process may load the library right now: it is replaced as a whole.
    let own = library.with_extension(std::process::id().to_string());
    let compiler = std::env::var("GLM_EMULATOR_CXX").unwrap_or_else(|_| "g++".into());
    let run = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-o"])
        .args([&own, source])
        .arg("-ldl")
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::fs::rename(&own, library).map_err(|error| error.to_string())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    match std::fs::read_to_string(path) {
        Ok(held) if held == text => Ok(()),
        _ => std::fs::write(path, text).map_err(|error| error.to_string()),
    }
}
