//! Flags that say what weights a model has and how they are kept.

use std::fs;

use serde_json::Value;

use super::{SUM, built_in, run, text};

#[test]
fn a_configuration_alone_runs_with_random_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(built_in().join("config.json"), folder.path().join("config.json")).expect("copied");
    let model = text(folder.path());
    let dummy = ["-m", model, "--load-format", "dummy", "--raw", "--seed", "3", "--json"];
    let answer = || run(&[&dummy[..], &["--max-tokens", "4", "Hello"]].concat());
    let first = answer();
    assert!(first.stderr.contains("weights: random"), "{first:?}");
    let ids = |answer: &Value| answer["token_ids"].as_array().expect("ids").len();
    assert!((1..=4).contains(&ids(&first.json())), "{first:?}");
    assert_eq!(first.json()["token_ids"], answer().json()["token_ids"], "the same weights again");

    run(&["-m", model, "Hello"]).assert_error(&["no tokenizer.json"]);
    run(&["-m", "glm-tiny", "--load-format", "dummy", "Hello"]).assert_error(&["MODEL"]);
}

#[test]
fn the_built_in_model_still_adds_in_fp8() {
    for flags in [&["--quant", "fp8"][..], &["--quant", "fp8", "--fp8", "w8a8"]] {
        assert_eq!(run(&[flags, &[SUM]].concat()).stdout, "7 + 5 = 12\n", "{flags:?}");
    }
    let unused = run(&["--fp8", "w8a8", SUM]);
    assert!(unused.stderr.contains("--fp8 has no effect"), "{unused:?}");
    let wrong = run(&["--quant", "q3", SUM]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("wanted none or fp8"), "{wrong:?}");
}
