//! `benches/gpu/validate.sh` on a small model and the CPU: what it does where there is a GPU.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::glm_command;

/// Runs the script, or says why it cannot be run.
fn validate(out: &Path, arguments: &[&str]) -> Option<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/gpu/validate.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg("--glm").arg(glm_command().get_program());
    // No Python: whether one has torch is not this test's affair.
    command.arg("--out").arg(out).args(["--python", "no-such-python"]).args(arguments);
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "skipped: bash: {error}"));
            None
        }
    }
}

fn report(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("report.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn every_step_passes_or_says_why_not_and_is_taken_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(part) = validate(folder.path(), &["--smoke", "--only", "golden-*"]) else { return };
    assert_eq!(part.status.code(), Some(0), "{part:?}");
    let steps = report(folder.path())["steps"].as_array().expect("steps").len();
    assert!(steps > 8, "{part:?}");

    let whole = validate(folder.path(), &["--smoke"]).expect("as before");
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let said = String::from_utf8_lossy(&whole.stderr);
    assert!(!said.contains("golden-cpu-glm4"), "taken again: {said}");
    let found = report(folder.path());
    let mut passed = Vec::new();
    for step in found["steps"].as_array().expect("steps") {
        let name = step["step"].as_str().expect("a name");
        match step["result"].as_str() {
            Some("PASS") => passed.push(name),
            Some("SKIP") => {
                let detail = step["detail"].as_str().unwrap_or_default();
                assert!(detail.starts_with("skipped: "), "{step}");
            }
            _ => panic!("{step:#}"),
        }
    }
    for name in ["devices", "parity-cpu", "transcripts-cpu", "bench-cpu-glm4_moe_tiny-none-one"] {
        assert!(passed.contains(&name), "{name} is not in {passed:?}");
    }
    let speeds = found["speed"].as_array().expect("speeds");
    for (what, streams) in [("prefill", 1), ("decode", 1), ("decode", 2)] {
        let here = |row: &&Value| row["what"] == what && row["streams"] == streams;
        let row = speeds.iter().find(here).unwrap_or_else(|| panic!("{what} in {found:#}"));
        assert!(row["tokens_per_s"].as_f64().is_some_and(|speed| speed > 0.0), "{row}");
        assert!(row["share_of_bound"].is_number(), "{row}");
    }
    assert!(
        fs::read_to_string(folder.path().join("report.md")).expect("tables").contains("| PASS |")
    );
}

#[test]
fn a_failure_and_wrong_usage_have_exit_codes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Values of one model, recorded of another.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let wrong = folder.path().join("checkpoints/wrong");
    fs::create_dir_all(&wrong).expect("a folder");
    for (model, file) in [
        ("glm4_moe_tiny", "config.json"),
        ("glm4_moe_tiny", "model.safetensors"),
        ("glm4_moe_tiny_groups", "golden.safetensors"),
    ] {
        fs::copy(fixtures.join(model).join(file), wrong.join(file)).expect(file);
    }
    let out = folder.path().join("out");
    let checkpoints = folder.path().join("checkpoints");
    let given = ["--smoke", "--only", "golden-cpu-wrong-f32", "--fixtures"];
    let failed = validate(&out, &[&given[..], &[checkpoints.to_str().expect("UTF-8")]].concat());
    let Some(failed) = failed else { return };
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let found = report(&out);
    assert_eq!(found["steps"][0]["result"], "FAIL", "{found:#}");

    for arguments in [&["--minutes", "soon"][..], &["--devices"], &["--no-such-flag"]] {
        let wrong = validate(&out, arguments).expect("as before");
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}: {wrong:?}");
    }
    let listed = validate(&out, &["--smoke", "--list"]).expect("as before");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|line| line == "parity-cpu"), "{listed}");
}
