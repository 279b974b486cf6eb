//! Devices as a program meets them: what is absent says so in one line, what is there computes.

use std::io::Write as _;
use std::process::Command;

use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData, activation};
use glm_backends::device::{BackendKind, DeviceError, OpenDevice, Selection, list, open};

fn open_named(text: &str) -> Result<OpenDevice, DeviceError> {
    open(&text.parse().unwrap())
}

/// Opens `name`, or prints why not.
fn open_or_skip(name: &str) -> Option<OpenDevice> {
    open_named(name).inspect_err(|error| drop(writeln!(std::io::stderr(), "skipped: {error}"))).ok()
}

#[test]
fn an_absent_backend_is_one_line() {
    for (name, message) in [
        (
            "cuda",
            "backend `cuda`: no CUDA driver (libcuda.so.1 not found); install the NVIDIA driver, \
             and the CUDA toolkit for NVRTC",
        ),
        (
            "rocm:1",
            "backend `rocm`: no ROCm runtime (libamdhip64.so and libhiprtc.so not found); install \
             ROCm 7 (hip-runtime-amd, hip-dev), or set ROCM_PATH where it is",
        ),
    ] {
        match open_named(name) {
            Ok(device) => {
                drop(writeln!(std::io::stderr(), "skipped: this machine has {}", device.label()))
            }
            Err(DeviceError::Absent { found, .. }) if !found.starts_with("no ") => {
                drop(writeln!(std::io::stderr(), "skipped: {found}"));
            }
            Err(DeviceError::NoSuchDevice { present, .. }) => {
                drop(writeln!(std::io::stderr(), "skipped: this machine has {present:?}"));
            }
            Err(error) => assert_eq!(error.to_string(), message),
        }
    }
}

/// Run by [`probing_says_nothing_on_stderr`] in a process of its own.
#[test]
#[ignore = "a child process of another test"]
fn child_that_opens_every_backend() {
    for kind in BackendKind::ALL {
        drop(open(&Selection::Named { kind, index: 0 }));
        drop(open(&Selection::Named { kind, index: 999 }));
    }
    assert!(!list().is_empty());
}

#[test]
fn probing_says_nothing_on_stderr() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_opens_every_backend", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{stderr}");
    assert_eq!(stderr, "", "wanted no panic message, backtrace or warning");
}

#[test]
fn an_index_past_the_end_lists_what_there_is() {
    for name in ["gl:40", "vulkan:40", "wgpu:40", "cuda:40", "rocm:40"] {
        match open_named(name) {
            Err(DeviceError::NoSuchDevice { index, present, .. }) => {
                assert_eq!(index, 40);
                assert!(present[0].starts_with(&name.replace("40", "0")), "{present:?}");
            }
            Err(DeviceError::Absent { found, .. }) => {
                drop(writeln!(std::io::stderr(), "skipped: {found}"))
            }
            other => panic!("{name} gave {other:?}"),
        }
    }
}

#[test]
fn auto_takes_no_software_adapter_and_says_why() {
    let device = open(&Selection::Auto).unwrap();
    assert!(!device.software, "{}", device.why);
    assert_ne!(device.kind, BackendKind::Gl);
    assert!(!device.why.contains('\n') && device.why.contains("using "), "{}", device.why);
    if device.kind == BackendKind::Cpu {
        assert!(device.why.contains("CUDA") && device.why.ends_with(": using the CPU"));
    }
}

#[test]
fn the_cpu_computes_in_f32() {
    let device = open_named("cpu").unwrap();
    assert!(device.supports(DType::F32) && device.supports(DType::BF16));
    assert_eq!(device.auto_float(DType::BF16).0, DType::F32);
    assert_eq!(device.nearest_float(DType::BF16), (DType::BF16, None));
    let memory = device.memory();
    assert!(memory.free <= memory.total, "{memory:?}");
    assert_eq!(attend(&device.device).len(), 3 * 5);
}

#[test]
fn gl_agrees_with_the_cpu() {
    let Some(mut gl) = open_or_skip("gl") else { return };
    // Opening made no Burn tensor, so the default dtypes are still the model's to settle.
    gl.device.configure((FloatDType::F32, IntDType::I32)).unwrap();
    assert_eq!(gl.nearest_float(DType::BF16).0, DType::F32, "{}", gl.label());
    let cpu = open_named("cpu").unwrap();
    for (found, wanted) in attend(&gl.device).into_iter().zip(attend(&cpu.device)) {
        assert!((found - wanted).abs() < 1e-5, "{found} on gl, {wanted} on the cpu");
    }
    // A second handle to a started device is the same device.
    assert_eq!(open_named("gl:0").unwrap().device, gl.device);
}

/// The operations that a graph leans on: a matrix product, a softmax, a choice of rows.
fn attend(device: &Device) -> Vec<f32> {
    let numbers =
        |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
    let left = Tensor::<2>::from_data(TensorData::new(numbers(4 * 8), [4, 8]), device);
    let right = Tensor::<2>::from_data(TensorData::new(numbers(8 * 5), [8, 5]), device);
    let rows = Tensor::<1, Int>::from_data([3, 0, 2], device);
    let out = activation::softmax(left.matmul(right), 1).select(0, rows);
    out.into_data().try_to_vec().unwrap()
}
