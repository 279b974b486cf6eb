//! Every case of every op on the device of `GLM_TEST_DEVICE` (default `gl`, skipped where it is
//! absent) against the reference on the CPU. `GLM_TEST_OPS` names some of the ops, with commas.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]
#![expect(clippy::disallowed_methods, reason = "the device is chosen by the environment")]

use burn::tensor::Device;
use glm_backends::ops::{KERNELS, case::Inputs};
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
            let run = |device: &Device| (kernel.run)(case, &mut Inputs::new(case.seed, device));
            let (want, got) = (run(&Device::flex()), run(&opened.device));
            assert_eq!(want.len(), got.len(), "{}/{}", kernel.name, case.label);
            let distance = relative_l2(&got, &want);
            eprintln!("{}/{}: {distance:.1e}", kernel.name, case.label);
            if distance.is_nan() || distance > kernel.tolerance {
                failures.push(format!(
                    "{}/{}: relative L2 {distance:.3e}, allowed {:.0e}",
                    kernel.name, case.label, kernel.tolerance
                ));
            }
        }
    }
    assert!(failures.is_empty(), "on {name}:\n{}", failures.join("\n"));
}

fn relative_l2(got: &[f32], want: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    };
    let distance = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
    (distance / norm(&mut want.iter().copied()).max(1e-30)) as f32
}
