//! `glm inspect` and `glm devices`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{SUM, built_in, ended, glm, text};
use crate::support::glm_command;

#[test]
fn inspect_says_what_the_model_is() {
    let facts = glm(&["inspect", "--json"]);
    let facts: Value = serde_json::from_str(&facts.stdout).expect("JSON");
    for (key, wanted) in [
        ("family", json!("glm4_moe")),
        ("layers", json!(4)),
        ("vocab_size", json!(2048)),
        ("context_length", json!(8192)),
        // 2 (key, value) · 2 heads · 32 values · 4 layers · 2 bytes.
        ("kv_bytes_per_token", json!(1024)),
    ] {
        assert_eq!(facts[key], wanted, "{key} in {facts}");
    }
    let total = facts["parameters"]["total"].as_u64().expect("a number");
    assert!((2_000_000..2_500_000).contains(&total), "{facts}");
    assert!(facts["parameters"]["active"].as_u64().is_some_and(|active| active < total), "{facts}");
    let table = glm(&["inspect"]).stdout;
    for said in ["glm4_moe", "parameters", "BF16", "1.00 KiB per token", "memory to load"] {
        assert!(table.contains(said), "`{said}` is not in {table}");
    }
    let tensors = glm(&["inspect", "--tensors"]).stdout;
    let row =
        tensors.lines().find(|line| line.starts_with("model.embed_tokens.weight")).expect("listed");
    assert!(row.contains("BF16") && row.contains("[2048, 128]"), "{row}");
}

#[test]
fn inspect_ops_says_how_each_is_computed() {
    let shown = glm(&["inspect", "ops", "--backend", "cpu", "--json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let path = |op: &str| {
        let ops = shown["ops"].as_array().expect("a list");
        ops.iter().find(|entry| entry["op"] == op).expect("listed")["path"].clone()
    };
    assert_eq!(path("paged_attention"), "kernel");
    assert_eq!(path("linear"), "kernel");
    assert_eq!(path("embedding"), "reference");
    let table = glm(&["inspect", "ops", "--backend", "cpu"]).stdout;
    assert!(table.contains("OPERATION") && table.contains("moe_experts"), "{table}");
}

#[test]
fn inspect_needs_no_weights_of_a_hub_model() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let repository = cache.path().join("models--nobody--tiny");
    let snapshot = repository.join("snapshots").join("0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&snapshot).expect("created");
    fs::create_dir_all(repository.join("refs")).expect("created");
    fs::write(repository.join("refs/main"), "0123456789abcdef0123456789abcdef01234567")
        .expect("written");
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(built_in().join(file), snapshot.join(file)).expect("copied");
    }
    let offline = |arguments: &[&str]| {
        let mut command = glm_command();
        command.env("HF_HUB_CACHE", cache.path()).args(arguments);
        ended(command.output().expect("glm starts"))
    };
    let facts = offline(&["inspect", "nobody/tiny"]);
    assert!(
        facts.stdout.contains("glm4_moe") && facts.stdout.contains("not on this machine"),
        "{facts:?}"
    );
    offline(&["inspect", "nobody/tiny", "--tensors"]).assert_error(&["weights of nobody/tiny"]);
    offline(&["run", "nobody/tiny", SUM]).assert_error(&["nobody/tiny", "model.safetensors"]);
}

#[test]
fn inspect_writes_logits_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ids = folder.path().join("ids.json");
    let out = folder.path().join("out.safetensors");
    let logits = |content: &str, out: &Path, more: &[&str]| {
        fs::write(&ids, content).expect("written");
        let arguments = [
            "inspect",
            "--backend",
            "cpu",
            "--dtype",
            "f32",
            "--logits",
            text(&ids),
            "--out",
            text(out),
        ];
        glm(&[&arguments[..], more].concat())
    };
    for (content, wanted) in [
        ("[1, 2048]", "element 1 is 2048, wanted a token id from 0 to 2047"),
        ("[-3]", "element 0 is -3"),
        ("[]", "empty"),
        ("{", "not JSON"),
    ] {
        logits(content, &out, &[]).assert_error(&["ids.json", wanted]);
    }
    let long = serde_json::to_string(&vec![1; 9000]).expect("JSON");
    logits(&long, &out, &[]).assert_error(&["9000", "8192"]);
    logits("[1]", &folder.path().join("none/out.safetensors"), &[])
        .assert_error(&["cannot write", "none"]);
    logits("[1]", folder.path(), &[]).assert_error(&["cannot write", "no regular file"]);
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "only the ids are there");

    let plain = logits("[1990, 1992, 1995]", &out, &[]);
    assert_eq!((plain.code, plain.stdout.as_str()), (Some(0), ""), "{plain:?}");
    let bytes = fs::read(&out).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(file.names(), ["logits"]);
    let mode = |path| fs::metadata(path).expect("there").permissions();
    assert_eq!(mode(&out), mode(&ids), "as any other file of this user");
    assert_eq!(file.tensor("logits").expect("there").shape(), [3, 2048]);

    assert_eq!(logits("[1990, 1992, 1995]", &out, &["--trace"]).code, Some(0));
    let bytes = fs::read(&out).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let experts = file.tensor("router_topk_ids.layer1").expect("there");
    assert_eq!((experts.dtype(), experts.shape()), (safetensors::Dtype::I64, &[3, 4][..]));
    for name in [
        "logits",
        "hidden.embed",
        "hidden.layer3",
        "hidden.final_norm",
        "attn_out.layer0",
        "mlp_out.layer3",
    ] {
        assert_eq!(file.tensor(name).expect(name).dtype(), safetensors::Dtype::F32, "{name}");
    }
    assert_eq!(logits("[1990, 1992, 1995]", &out, &["--mtp"]).code, Some(0));
    let bytes = fs::read(&out).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    for (name, shape) in [
        ("mtp.token_in", &[3][..]),
        ("mtp.logits_step1", &[3, 2048]),
        ("mtp.chain_tokens", &[3]),
        ("mtp.chain_logits", &[3, 2048]),
    ] {
        assert_eq!(file.tensor(name).expect(name).shape(), shape, "{name}");
    }
    assert_eq!(
        fs::read_dir(folder.path()).expect("readable").count(),
        2,
        "no temporary file is left"
    );
}

#[test]
fn places_on_a_hub_mean_nothing_elsewhere() {
    for (arguments, said) in [
        (&["inspect", "--revision", "v1"][..], "warning: --revision is not used: glm-tiny"),
        (&["inspect", text(&built_in()), "--revision", "v1"], "warning: --revision is not used"),
        (&["inspect", text(&built_in()), "--hub", "modelscope"], "warning: --hub is not used"),
    ] {
        let warned = glm(arguments);
        assert_eq!(warned.code, Some(0), "{warned:?}");
        assert!(warned.stderr.starts_with(said), "{warned:?}");
        assert_eq!(warned.stderr.lines().count(), 1, "{warned:?}");
    }
    assert_eq!(glm(&["inspect"]).stderr, "");
}

#[test]
fn devices_lists_every_backend() {
    let listed: Value = serde_json::from_str(&glm(&["devices", "--json"]).stdout).expect("JSON");
    let listed = listed.as_array().expect("an array");
    for backend in ["cpu", "cuda", "rocm", "vulkan", "wgpu", "gl"] {
        let entry = listed.iter().find(|entry| entry["backend"] == backend).expect(backend);
        let explained = if entry["available"] == true { &entry["name"] } else { &entry["reason"] };
        assert!(explained.as_str().is_some_and(|text| !text.is_empty()), "{entry}");
    }
    let processor = listed.iter().find(|entry| entry["backend"] == "cpu").expect("checked above");
    assert!(
        processor["dtypes"].as_array().is_some_and(|dtypes| dtypes.contains(&json!("f32"))),
        "{processor}"
    );
    assert!(glm(&["devices"]).stdout.starts_with("BACKEND"));
}

#[test]
fn recorded_values_are_compared_and_a_difference_is_a_failure() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folder = fixtures.join("glm4_moe_tiny");
    let compared = |golden: &Path, more: &[&str]| {
        let arguments = ["inspect", text(&folder), "--backend", "cpu", "--dtype", "f32"];
        glm(&[&arguments[..], &["--golden", text(golden)], more].concat())
    };
    let same = compared(&folder.join("golden.safetensors"), &[]);
    assert_eq!(same.code, Some(0), "{same:?}");
    assert!(same.stdout.starts_with("40 of 40 values agree; worst relative L2 "), "{same:?}");
    let other = compared(&fixtures.join("glm4_moe_tiny_groups/golden.safetensors"), &["--json"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.stderr.contains("error: ") && other.stderr.contains(" differ"), "{other:?}");
    let report: Value = serde_json::from_str(&other.stdout).expect("JSON");
    assert!(report["agree"].as_u64() < report["values"].as_u64(), "{report:#}");
    compared(&fixtures.join("none.safetensors"), &[]).assert_error(&["none.safetensors"]);
}
