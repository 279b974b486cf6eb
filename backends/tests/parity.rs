//! Every case of every op on the device of `GLM_TEST_DEVICE` (default `gl`, skipped where it is
//! absent) against the reference on the CPU. `GLM_TEST_OPS` names some of the ops, with commas.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]
#![expect(clippy::disallowed_methods, reason = "the device is chosen by the environment")]

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
        for case in kernel.cases {
            let place = format!("{}/{}", kernel.name, case.label);
            match opened.compare(kernel, case) {
                Ok(distance) => {
                    eprintln!("{place}: {distance:.1e}");
                    if distance.is_nan() || distance > kernel.tolerance {
                        let allowed = kernel.tolerance;
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
