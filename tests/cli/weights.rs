//! Flags that say what weights a model has and how they are kept.

use std::fs;

use serde_json::Value;

use super::{SUM, built_in, glm, run, text};

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

    // The file alone does as well, under any name, and nothing else is looked at.
    let file = folder.path().join("a-model.json");
    fs::rename(folder.path().join("config.json"), &file).expect("renamed");
    let dummy = ["-m", text(&file), "--load-format", "dummy", "--raw", "--seed", "3", "--json"];
    let alone = run(&[&dummy[..], &["--max-tokens", "4", "Hello"]].concat());
    assert_eq!(first.json()["token_ids"], alone.json()["token_ids"]);
    let facts = glm(&["inspect", text(&file), "--load-format", "dummy"]);
    assert!(facts.stdout.contains("not on this machine"), "{facts:?}");
    run(&["-m", text(&file), "Hello"]).assert_error(&["is a file"]);
    fs::rename(&file, folder.path().join("config.json")).expect("renamed");

    run(&["-m", model, "Hello"]).assert_error(&["no tokenizer.json"]);
    run(&["-m", "glm-tiny", "--load-format", "dummy", "Hello"]).assert_error(&["MODEL"]);
}

#[test]
fn the_built_in_model_still_adds_with_fewer_bits() {
    for flags in [
        &["--quant", "fp8"][..],
        &["--quant", "fp8", "--fp8", "w8a8"],
        &["--mmap"],
        &["--quant", "q8"],
        &["--quant", "q4", "--threads", "1"],
    ] {
        let answer = run(&[flags, &[SUM]].concat());
        assert_eq!(answer.stdout, "7 + 5 = 12\n", "{flags:?}");
        assert!(!answer.stderr.contains("twice the memory"), "{answer:?}");
    }
    let unused = run(&["--fp8", "w8a8", SUM]);
    assert!(unused.stderr.contains("--fp8 has no effect"), "{unused:?}");
    let wrong = run(&["--quant", "q3", SUM]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("wanted none, fp8, q8 or q4"), "{wrong:?}");
}
