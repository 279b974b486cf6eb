//! What was found, for people and for programs.

use glm_backends::device::OpenDevice;
use serde_json::{Value, json};

use super::parts::{Part, Place};
use super::verdict::State;
use super::{Finding, Trial};
use crate::kept::Kept;
use crate::ui;

/// Cargo features that say which backends are in this program, and what it keeps.
fn features() -> Vec<&'static str> {
    let all = [
        ("cpu", cfg!(feature = "cpu")),
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(any(feature = "wgpu", feature = "vulkan"))),
        ("autotune-cache", cfg!(feature = "autotune-cache")),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// Tables, and what to install.
pub(super) fn text(findings: &[Finding], kept: Option<&Kept>) -> String {
    let mut text = format!("glm {} with {}\n\n", env!("CARGO_PKG_VERSION"), features().join(" "));
    let rows: Vec<Vec<String>> = findings.iter().flat_map(rows).collect();
    text += &ui::table(&["BACKEND", "STATE", "WHAT IT DID, OR WHY IT IS NOT THERE"], &rows);
    let parts: Vec<Vec<String>> = findings
        .iter()
        .flat_map(|finding| finding.parts.iter().map(|part| part_row(finding, part)))
        .collect();
    if !parts.is_empty() {
        text += "\n";
        text += &ui::table(&["BACKEND", "PART", "VERSION", "PLACE"], &parts);
    }
    for finding in findings {
        let advice = advice(finding);
        if !advice.is_empty() {
            text += &format!("\n{} takes\n", finding.kind);
            advice.iter().for_each(|line| text += &format!("  {line}\n"));
        }
    }
    if let Some(kept) = kept {
        let (folder, bytes) = (kept.folder.display(), ui::bytes(kept.bytes));
        text += &format!("\nkept for later runs: {} files, {bytes} in {folder}\n", kept.files);
    }
    text
}

/// What is missing of a backend that does not work.
fn advice(finding: &Finding) -> Vec<String> {
    match finding.state {
        State::Absent(_) | State::Fails(_) => {
            finding.parts.iter().filter_map(Part::advice).collect()
        }
        State::Works | State::NotBuiltIn(_) => Vec::new(),
    }
}

/// A row for each device, and one for what the backend as a whole has to say.
fn rows(finding: &Finding) -> Vec<Vec<String>> {
    let Finding { kind, state, devices, .. } = finding;
    let device = |(device, trial): &(OpenDevice, Trial)| {
        let state = match (trial.skipped, trial.failures.is_empty()) {
            (Some(_), _) => "opens",
            (None, true) => "works",
            (None, false) => "fails",
        };
        vec![format!("{kind}:{}", device.index), state.to_owned(), summary(device, trial)]
    };
    let mut rows: Vec<_> = devices.iter().map(device).collect();
    // What went wrong on a device stands in its row already.
    let said = devices.iter().any(|(_, trial)| !trial.failures.is_empty());
    if let Some(reason) = state.reason().filter(|_| !said) {
        let name = state.name().replace('_', " ");
        rows.push(vec![kind.to_string(), name, reason.to_owned()]);
    }
    rows
}

fn summary(device: &OpenDevice, trial: &Trial) -> String {
    let software = if device.software { " (software)" } else { "" };
    let mut said = vec![format!("{}{software}", device.name)];
    if let Some(reason) = trial.skipped {
        said.push(format!("not tried: {reason}"));
        return said.join("; ");
    }
    if let Some(speed) = trial.copy_bytes_per_second {
        said.push(format!("copies {:.1} GB/s", speed / 1e9));
    }
    if trial.cases > 0 {
        let agree = trial.cases.saturating_sub(trial.failures.len());
        let (cases, all) = (trial.cases, trial.all_cases);
        said.push(format!("{agree} of {cases} cases (of {all}) as on the CPU"));
    }
    said.push(format!("{:.1} s", trial.seconds));
    said.extend(trial.failures.iter().cloned());
    said.join("; ")
}

fn part_row(finding: &Finding, part: &Part) -> Vec<String> {
    let place = match &part.place {
        Place::Found(path) => path.display().to_string(),
        Place::OffPath(path) => format!("{}, where the loader does not look", path.display()),
        Place::Missing => "missing".to_owned(),
    };
    let version = part.version.clone().unwrap_or_else(|| "?".to_owned());
    let version = if part.place == Place::Missing { "-".to_owned() } else { version };
    vec![finding.kind.to_string(), part.wanted.name.to_owned(), version, place]
}

/// One object.
pub(super) fn json(findings: &[Finding], kept: Option<&Kept>, ok: bool) -> String {
    let kept = kept.map(|kept| {
        json!({"folder": kept.folder.display().to_string(), "files": kept.files, "bytes": kept.bytes})
    });
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "features": features(),
        "backends": findings.iter().map(backend_json).collect::<Vec<_>>(),
        "cache": kept,
        "ok": ok,
    });
    format!("{value:#}\n")
}

fn backend_json(finding: &Finding) -> Value {
    let part = |part: &Part| {
        let path = match &part.place {
            Place::Found(path) | Place::OffPath(path) => Some(path.display().to_string()),
            Place::Missing => None,
        };
        json!({
            "name": part.wanted.name,
            "path": path,
            "version": part.version,
            "missing": part.advice().is_some(),
            "install": part.advice(),
        })
    };
    json!({
        "backend": finding.kind.to_string(),
        "state": finding.state.name(),
        "reason": finding.state.reason(),
        "parts": finding.parts.iter().map(part).collect::<Vec<_>>(),
        "devices": finding.devices.iter().map(device_json).collect::<Vec<_>>(),
    })
}

fn device_json((device, trial): &(OpenDevice, Trial)) -> Value {
    json!({
        "device": format!("{}:{}", device.kind, device.index),
        "name": device.name,
        "software": device.software,
        "memory_bytes": device.memory().total,
        "dtypes": device.floats(),
        "copy_bytes_per_s": trial.copy_bytes_per_second,
        "cases": trial.cases,
        "all_cases": trial.all_cases,
        "skipped": trial.skipped,
        "failures": trial.failures,
        "seconds": trial.seconds,
    })
}
