//! `glm doctor`.

use std::io::Write as _;

use serde_json::Value;

use super::glm;

#[test]
fn the_cpu_is_well() {
    let found = glm(&["doctor", "--backend", "cpu", "--json"]);
    assert_eq!(found.code, Some(0), "{found:?}");
    let report: Value = serde_json::from_str(&found.stdout).expect("JSON");
    assert_eq!(report["ok"], true, "{report:#}");
    let backends = report["backends"].as_array().expect("an array");
    assert_eq!((backends.len(), &backends[0]["state"]), (1, &"works".into()), "{report:#}");
    let device = &backends[0]["devices"][0];
    assert!(device["copy_bytes_per_s"].as_f64().is_some_and(|speed| speed > 0.0), "{device:#}");
    assert!(device["cases"].as_u64().is_some_and(|cases| cases > 0), "{device:#}");
    assert!(device["cases"].as_u64() <= device["all_cases"].as_u64(), "{device:#}");
}

#[test]
fn a_backend_that_is_asked_for_and_missing_is_a_failure_with_advice() {
    for (backend, package) in [("cuda", "nvidia-driver"), ("rocm", "hip-runtime-amd")] {
        let found = glm(&["doctor", "--backend", backend]);
        if found.stdout.contains(&format!("{backend}:0")) {
            drop(writeln!(std::io::stderr(), "skipped: this machine has {backend}"));
            continue;
        }
        assert_eq!(found.code, Some(1), "{found:?}");
        let errors: Vec<&str> =
            found.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{found:?}");
        let begin = format!("error: backend `{backend}`: ");
        assert!(errors[0].starts_with(&begin) && errors[0].contains("install"), "{found:?}");
        assert!(found.stdout.contains(package), "{found:?}");
    }
}

#[test]
fn what_is_not_kept_cannot_be_tuned() {
    // The program of the tests is built without the database that this takes.
    let found = glm(&["doctor", "--backend", "cpu", "--tune"]);
    found.assert_error(&["--tune", "autotune-cache", "libclang"]);
}
