//! Time of every op and case on one device, as a share of the CPU's time in the same run.
//!
//! `cargo bench-kernels [OP]`; the device is `GLM_BENCH_DEVICE`, by default `auto`.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "the device is chosen by the environment")]

use std::time::{Duration, Instant};

use glm_backends::device::{self, OpenDevice};
use glm_backends::ops::KERNELS;
use glm_backends::ops::case::{Case, Inputs, Kernel};

/// Runs of which the median is taken, after one that compiles and tunes.
const RUNS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let name = std::env::var("GLM_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let measured = device::open(&name.parse()?)?;
    let cpu = device::open(&"cpu".parse()?)?;
    println!("{} against {}; inputs and read-back included", measured.label(), cpu.label());
    println!("{:40} {:>12} {:>12} {:>8}", "op/case", "device", "cpu", "ratio");
    for kernel in KERNELS.iter().filter(|kernel| wanted.as_ref().is_none_or(|w| w == kernel.name)) {
        for case in kernel.cases {
            let (device_time, cpu_time) = pair(kernel, case, &measured, &cpu);
            println!(
                "{:40} {device_time:>12.1?} {cpu_time:>12.1?} {:>8.2}",
                format!("{}/{}", kernel.name, case.label),
                device_time.as_secs_f64() / cpu_time.as_secs_f64(),
            );
        }
    }
    Ok(())
}

/// Medians of alternating runs. Every output is read, because a kernel that failed says so only
/// there.
fn pair(kernel: &Kernel, case: &Case, a: &OpenDevice, b: &OpenDevice) -> (Duration, Duration) {
    let time = |device: &OpenDevice| {
        let started = Instant::now();
        (kernel.run)(case, &mut Inputs::new(case.seed, &device.device));
        started.elapsed()
    };
    time(a);
    time(b);
    let (mut times_a, mut times_b): (Vec<_>, Vec<_>) =
        (0..RUNS).map(|_| (time(a), time(b))).unzip();
    times_a.sort();
    times_b.sort();
    (times_a[RUNS / 2], times_b[RUNS / 2])
}
