//! Every case of every op on the device of `GLM_TEST_DEVICE` (default `gl`, skipped where it is
//! absent) against the reference on the CPU, in f32 and where the device computes it in bf16; and all
//! of it again on an emulated NVIDIA GPU. `GLM_TEST_OPS` names some of the ops, with commas.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]
#![expect(clippy::disallowed_methods, reason = "the device is chosen by the environment")]

mod emulator;

use glm_backends::ops::KERNELS;
use std::io::Write as _;

#[test]
fn every_op_agrees_with_the_cpu() {
    let name = std::env::var("GLM_TEST_DEVICE").unwrap_or_else(|_| "gl".into());
    let selection = name.parse().expect("GLM_TEST_DEVICE");
    let opened = match glm_backends::device::open(&selection) {
        Ok(opened) => opened,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "skipped: {error}"));
            return;
        }
    };
    let some = std::env::var("GLM_TEST_OPS").unwrap_or_default();
    let mut failures = Vec::new();
    for kernel in KERNELS {
        if !some.is_empty() && !some.split(',').any(|name| name == kernel.name) {
            continue;
        }
        let dtypes: Vec<_> = opened.compared_dtypes().collect();
        for (case, dtype) in
            kernel.cases.iter().flat_map(|case| dtypes.iter().map(move |d| (case, *d)))
        {
            let place = format!("{}/{} in {dtype:?}", kernel.name, case.label);
            match opened.compare(kernel, case, dtype) {
                Ok(distance) => {
                    eprintln!("{place}: {distance:.1e}");
                    let allowed = kernel.tolerance_in(dtype);
                    if distance.is_nan() || distance > allowed {
                        failures.push(format!(
                            "{place}: relative L2 {distance:.3e}, allowed {allowed:.0e}"
                        ));
                    }
                }
                Err(error) => failures.push(format!("{place}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "on {name}:\n{}", failures.join("\n"));
}

#[test]
fn every_op_agrees_with_the_cpu_on_an_emulated_gpu() {
    // The search for the fastest of Burn's own kernels would compile all of them.
    emulator::run_again("every_op_agrees_with_the_cpu", &[("CUBECL_AUTOTUNE_LEVEL", "minimal")]);
}
