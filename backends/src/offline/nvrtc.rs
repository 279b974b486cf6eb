//! From CUDA C++ to machine code, by NVRTC: no driver and no GPU take part in that.

#![expect(unsafe_code, reason = "NVRTC is a C library")]

use std::ffi::{CStr, CString};

use cudarc::nvrtc::{result, sys};

/// What a kernel takes of a multiprocessor, as `ptxas` reports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Resources {
    /// Registers of a unit.
    pub(super) registers: usize,
    /// Bytes of a unit's stack: values that did not fit registers, and arrays with computed
    /// indices.
    pub(super) stack: usize,
    /// Bytes that are stored to the stack for want of registers.
    pub(super) spilled: usize,
}

/// Whether the dynamic linker finds NVRTC.
pub(super) fn is_here() -> bool {
    // SAFETY: opens the library, which has no constructor that anything here depends on.
    unsafe { sys::is_culib_present() }
}

/// Compiles a kernel for a compute capability, with the options of cubecl-cuda. `toolkit` holds
/// `include`.
pub(super) fn compile(version: u32, source: &str, toolkit: &str) -> Result<Resources, String> {
    let accelerated = if version >= 90 { "a" } else { "" };
    let options = [
        format!("--gpu-architecture=sm_{version}{accelerated}"),
        format!("--include-path={toolkit}/include"),
        "-lineinfo".into(),
        format!("--include-path={toolkit}/include/cccl"),
        "--ptxas-options=-v".into(),
    ];
    let source = CString::new(source).expect("text");
    let program = result::create_program(&source, None).map_err(|error| error.to_string())?;
    // SAFETY: the program was created above and is destroyed below, the options outlive the call.
    let compiled = unsafe { result::compile_program(program, &options) };
    // SAFETY: as above; the log is a C string.
    let log = unsafe { result::get_program_log(program) }.map_err(|error| error.to_string())?;
    // SAFETY: NVRTC ends its log with a zero.
    let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: nothing refers to the program from here on.
    let destroyed = unsafe { result::destroy_program(program) };
    compiled.map_err(|_| log.clone())?;
    destroyed.map_err(|error| error.to_string())?;
    read_log(&log).ok_or_else(|| format!("no resources in {log:?}"))
}

/// Finds the numbers in front of `ptxas`' words.
fn read_log(log: &str) -> Option<Resources> {
    let words: Vec<&str> = log.split([' ', ',', '\n']).filter(|word| !word.is_empty()).collect();
    let before = |what: &[&str]| {
        let at = words.windows(what.len()).position(|words| words == what)?;
        words[at.checked_sub(1)?].parse::<usize>().ok()
    };
    Some(Resources {
        registers: before(&["registers"])?,
        stack: before(&["bytes", "stack", "frame"])?,
        spilled: before(&["bytes", "spill", "stores"])?,
    })
}

#[test]
fn resources_are_found_in_what_ptxas_says() {
    let log = "ptxas info    : Function properties for k\n\
               ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
               ptxas info    : Used 80 registers, used 1 barriers";
    let want = Resources { registers: 80, stack: 16, spilled: 8 };
    assert_eq!(read_log(log), Some(want));
    assert_eq!(read_log(""), None);
}
