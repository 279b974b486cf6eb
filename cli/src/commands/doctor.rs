//! `glm doctor`: whether the devices of this machine compute what they should, and what is
//! missing where they do not.

mod parts;
mod report;
mod verdict;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use glm_backends::device::{self, BackendKind, DeviceError, OpenDevice, Selection};
use glm_backends::ops::KERNELS;
use glm_backends::ops::case::{Case, Kernel};

use self::parts::{Part, System};
use self::verdict::State;
use super::Outcome;
use crate::args::DoctorArgs;
use crate::{kept, ui};

/// How long a device is tried.
const LIMIT: Duration = Duration::from_secs(2);
/// How much of that goes into copies.
const COPYING: Duration = Duration::from_millis(400);

/// What was found out about a backend.
struct Finding {
    kind: BackendKind,
    state: State,
    parts: Vec<Part>,
    devices: Vec<(OpenDevice, Trial)>,
}

/// What a device did.
#[derive(Debug, Default)]
struct Trial {
    /// Why it was not tried.
    skipped: Option<&'static str>,
    copy_bytes_per_second: Option<f64>,
    /// Cases that were compared with the CPU.
    cases: usize,
    /// Cases that there are, in all number formats.
    all_cases: usize,
    /// What went wrong, a line each.
    failures: Vec<String>,
    seconds: f64,
}

/// Looks at what was asked for, or at all backends, and prints what it found.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Outcome> {
    if args.tune {
        // Before any device is opened, so that none of it is in use.
        kept::forget()?;
    }
    let system = System::look();
    // What is to be tuned has to be computed.
    let limit = if args.all || args.tune { Duration::MAX } else { LIMIT };
    let look = |kind, opened| Finding::new(kind, opened, &system, limit, args.backend.is_some());
    let findings: Vec<Finding> = match args.backend {
        None => {
            BackendKind::ALL.into_iter().map(|kind| look(kind, device::open_each(kind))).collect()
        }
        Some(selection) => {
            let opened = device::open(&selection);
            let kind = match (&opened, selection) {
                (Ok(device), _) => device.kind,
                (Err(_), Selection::Named { kind, .. }) => kind,
                (Err(error), Selection::Auto) => bail!(error.clone()),
            };
            vec![look(kind, vec![opened])]
        }
    };
    let failures = verdict::failures(&findings, args.backend.is_some());
    let kept = kept::describe();
    let text = match args.json {
        true => report::json(&findings, kept.as_ref(), failures.is_empty()),
        false => report::text(&findings, kept.as_ref()),
    };
    ui::output(&text)?;
    if !failures.is_empty() {
        bail!(failures.join("; "));
    }
    Ok(Outcome::Done)
}

impl Finding {
    /// Tries what was opened.
    fn new(
        kind: BackendKind,
        opened: Vec<Result<OpenDevice, DeviceError>>,
        system: &System,
        limit: Duration,
        named: bool,
    ) -> Self {
        let (mut devices, mut errors) = (Vec::new(), Vec::new());
        for opened in opened {
            match opened {
                Ok(device) => {
                    let trial = Trial::of(&device, limit, named);
                    devices.push((device, trial));
                }
                Err(error) => errors.push(error),
            }
        }
        let parts = system.parts(kind);
        let failed: Vec<String> = devices
            .iter()
            .filter(|(_, trial)| !trial.failures.is_empty())
            .map(|(device, trial)| format!("{}: {}", device.label(), trial.failures.join(", ")))
            .collect();
        let state = State::of(&errors, &failed, parts::driver_is_there(kind, &parts));
        Self { kind, state, parts, devices }
    }
}

impl Trial {
    fn of(device: &OpenDevice, limit: Duration, named: bool) -> Self {
        let mut trial = Self::default();
        if device.software && !named {
            // They are slow, Mesa's software Vulkan is known to crash, and would take the report
            // with it.
            trial.skipped = Some("a software adapter, tried only when --backend names it");
            return trial;
        }
        ui::note(format!("trying {}", device.label()));
        let began = Instant::now();
        match device.measure_copy(COPYING) {
            Ok(speed) => trial.copy_bytes_per_second = Some(speed),
            Err(error) => trial.failures.push(format!("does not copy: {error}")),
        }
        let comparable = cfg!(feature = "cpu") && trial.failures.is_empty();
        let bar = ui::Bar::cases("comparing with the CPU");
        let dtypes: Vec<_> = device.compared_dtypes().collect();
        let all = cases().flat_map(|case| dtypes.iter().map(move |dtype| (case, *dtype)));
        trial.all_cases = cases().count() * dtypes.len();
        for ((kernel, case), dtype) in all.filter(|_| comparable) {
            if trial.cases > 0 && began.elapsed() >= limit {
                break;
            }
            trial.cases += 1;
            bar.set(trial.cases as u64, trial.all_cases as u64);
            let place = format!("{}/{} in {dtype:?}", kernel.name, case.label);
            let allowed = kernel.tolerance_in(dtype);
            match device.compare(kernel, case, dtype) {
                Ok(distance) if distance <= allowed => {}
                // Also where the distance is NaN.
                Ok(distance) => trial
                    .failures
                    .push(format!("{place} is off by {distance:.1e}, allowed {allowed:.0e}")),
                Err(error) => {
                    trial.failures.push(format!("{place}: {error}"));
                    // A device whose thread has panicked says the same of all that follows.
                    break;
                }
            }
        }
        trial.seconds = began.elapsed().as_secs_f64();
        trial
    }
}

/// All cases, the first one of each op before the second ones, so that a trial that is cut short
/// has seen many ops.
fn cases() -> impl Iterator<Item = (&'static Kernel, &'static Case)> {
    let most = KERNELS.iter().map(|kernel| kernel.cases.len()).max().unwrap_or(0);
    (0..most).flat_map(|nth| {
        KERNELS.iter().filter_map(move |kernel| Some((*kernel, kernel.cases.get(nth)?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_comes_once_and_every_op_early() {
        let all: Vec<_> = cases().map(|(kernel, case)| (kernel.name, case.label)).collect();
        let wanted: usize = KERNELS.iter().map(|kernel| kernel.cases.len()).sum();
        assert_eq!(all.len(), wanted);
        let mut early: Vec<_> = all[..KERNELS.len()].iter().map(|(op, _)| *op).collect();
        early.dedup();
        assert_eq!(early.len(), KERNELS.len());
    }
}
