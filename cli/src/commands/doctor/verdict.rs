//! What a backend is, from what was found, and when that is a failure.

use glm_backends::device::{BackendKind, DeviceError};

use super::Finding;

/// One line each where there is something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// All its devices do what they should.
    Works,
    /// This machine does not have it.
    Absent(String),
    /// This program does not have it.
    NotBuiltIn(String),
    /// It is there and does not work.
    Fails(String),
}

impl State {
    /// From why devices did not open, from what went wrong on those that did, and from whether
    /// the driver is there: with it, a missing compiler is a failure and not an absence.
    pub(super) fn of(errors: &[DeviceError], failed: &[String], driver: bool) -> Self {
        let failing = errors.iter().filter(|error| match error {
            DeviceError::NotCompiled { .. } => false,
            DeviceError::Absent { .. } => driver,
            _ => true,
        });
        let failing: Vec<String> = failing.map(reason).chain(failed.iter().cloned()).collect();
        match (failing.is_empty(), errors.first()) {
            (false, _) => Self::Fails(failing.join("; ")),
            (true, Some(error @ DeviceError::NotCompiled { .. })) => {
                Self::NotBuiltIn(reason(error))
            }
            (true, Some(error)) => Self::Absent(reason(error)),
            (true, None) => Self::Works,
        }
    }

    /// For programs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Absent(_) => "absent",
            Self::NotBuiltIn(_) => "not_built_in",
            Self::Fails(_) => "fails",
        }
    }

    /// What there is to say.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Works => None,
            Self::Absent(reason) | Self::NotBuiltIn(reason) | Self::Fails(reason) => Some(reason),
        }
    }

    /// Why the program ends with exit code 1: what is there has to work, and what was asked for
    /// `by_name` has to be there.
    fn failure(&self, kind: BackendKind, by_name: bool) -> Option<String> {
        let fails = by_name || matches!(self, Self::Fails(_));
        self.reason().filter(|_| fails).map(|reason| format!("backend `{kind}`: {reason}"))
    }
}

/// Everything for which the program ends with exit code 1.
pub(super) fn failures(findings: &[Finding], by_name: bool) -> Vec<String> {
    findings.iter().filter_map(|finding| finding.state.failure(finding.kind, by_name)).collect()
}

/// The message without the backend's name in front.
fn reason(error: &DeviceError) -> String {
    let message = error.to_string();
    let without = message.strip_prefix("backend `").and_then(|rest| rest.split_once("`: "));
    without.map_or(message.clone(), |(_, reason)| reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: BackendKind = BackendKind::Cuda;

    fn absent() -> DeviceError {
        let (found, remedy) = ("no NVRTC".into(), "install it".into());
        DeviceError::Absent { kind: CUDA, found, remedy }
    }

    #[test]
    fn what_is_there_has_to_work_and_what_is_named_to_be_there() {
        let broken =
            DeviceError::Failed { device: "cuda:1 (G)".into(), reason: "out of memory".into() };
        let missing =
            DeviceError::NoSuchDevice { kind: CUDA, index: 4, present: vec!["cuda:0 (G)".into()] };
        let off = ["cuda:0 (G): swiglu/decode is off by 1e0".to_owned()];
        // What was found; the state; whether it fails when all are looked at, and when named.
        for (errors, failed, driver, state, at_large, by_name) in [
            (vec![], &[][..], true, "works", false, false),
            (vec![absent()], &[], false, "absent", false, true),
            (vec![absent()], &[], true, "fails", true, true),
            (vec![DeviceError::NotCompiled { kind: CUDA }], &[], true, "not_built_in", false, true),
            (vec![broken], &[], false, "fails", true, true),
            (vec![missing], &[], false, "fails", true, true),
            (vec![], &off, true, "fails", true, true),
        ] {
            let found = State::of(&errors, failed, driver);
            assert_eq!(found.name(), state, "{errors:?}");
            assert_eq!(found.failure(CUDA, false).is_some(), at_large, "{found:?}");
            assert_eq!(found.failure(CUDA, true).is_some(), by_name, "{found:?}");
        }
    }

    #[test]
    fn the_failure_is_one_line_with_a_way_out() {
        let state = State::of(&[absent()], &[], false);
        assert_eq!(state, State::Absent("no NVRTC; install it".into()));
        let line = state.failure(CUDA, true);
        assert_eq!(line.as_deref(), Some("backend `cuda`: no NVRTC; install it"));
    }
}
