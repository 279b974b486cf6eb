//! `glm plan`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{built_in, ended, glm, text};
use crate::support::glm_command;

fn plan(arguments: &[&str]) -> Value {
    let ended = glm(&[&["plan", "--json"], arguments].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("one JSON object")
}

/// GLM-4.7-Flash's sizes in a folder of its own, with `more` keys.
fn flash(more: &Value) -> tempfile::TempDir {
    let mut config = json!({
        "model_type": "glm4_moe_lite", "hidden_size": 2048, "intermediate_size": 10_240,
        "moe_intermediate_size": 1536, "num_attention_heads": 20, "n_routed_experts": 64,
        "num_experts_per_tok": 4, "num_hidden_layers": 47, "q_lora_rank": 768,
        "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
        "vocab_size": 154_880, "dtype": "bfloat16"
    });
    let keys = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(keys);
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    folder
}

#[test]
fn a_folder_a_file_and_the_built_in_model_are_planned() {
    let folder = built_in();
    let file = folder.join("config.json");
    let mut plans = [plan(&[]), plan(&[text(&folder)]), plan(&[text(&file)])];
    assert_eq!(plans[0]["model"], "glm-tiny");
    for plan in &mut plans {
        plan["model"] = Value::Null;
    }
    assert_eq!(plans[0], plans[1]);
    assert_eq!(plans[1], plans[2]);
    let bytes = fs::metadata(folder.join("model.safetensors")).expect("there").len();
    let tensors = plans[0]["checkpoint_bytes"].as_u64().expect("a number");
    assert!(tensors < bytes && bytes < tensors + 100_000, "all but the header: {tensors}");
}

#[test]
fn the_numbers_of_a_model_need_its_config_json_alone() {
    let folder = flash(&json!({}));
    let found = plan(&[text(folder.path()), "--gpu", "H100"]);
    for (key, wanted) in [
        ("family", json!("glm4_moe_lite")),
        ("kv_bytes_per_token", json!(54_144)),
        ("fits", json!(true)),
        ("devices_needed", json!(1)),
        ("context", json!(32_768)),
        ("batch", json!(1)),
        ("quantization", json!("none")),
        ("index_bytes", Value::Null),
    ] {
        assert_eq!(found[key], wanted, "{key} in {found:#}");
    }
    // BF16, and two bytes more for each weight of the routers.
    let total = found["parameters"]["total"].as_u64().expect("a number");
    assert_eq!(found["weights_bytes"], json!(2 * (total + 46 * 64 * 2049)));
    assert_eq!(found["weights_bytes"], found["weights_bytes_by_format"]["bf16"]);
    let parts = found["weights_bytes_by_part"].as_object().expect("an object").values();
    let parts: u64 = parts.map(|bytes| bytes.as_u64().expect("a number")).sum();
    assert_eq!(found["weights_bytes"], json!(parts));
    let rate = |plan: &Value| plan["decode_bound_tokens_per_s"].as_f64().expect("a number");
    assert!((300.0..500.0).contains(&rate(&found)), "{found:#}");
    assert!(found["max_context"].as_u64().is_some_and(|context| context > 32_768), "{found:#}");

    let fp8 = ["--quant", "fp8", "--kv-dtype", "fp8", "--batch", "8", "--gpu", "1xH100"];
    let small = plan(&[&[text(folder.path())], &fp8[..]].concat());
    assert_eq!(
        (&small["kv_bytes_per_token"], &small["batch"]),
        (&json!(47 * (512 + 64 + 2 * 4)), &json!(8))
    );
    assert_eq!(small["weights_bytes"], found["weights_bytes_by_format"]["fp8"]);
    assert!(rate(&small) > rate(&found), "{small:#}");
    let mtp = plan(&[text(folder.path()), "--mtp", "--gpu", "H100"]);
    assert_eq!(mtp["kv_bytes_per_token"], 54_144 + 1152);
}

#[test]
fn too_few_gpus_are_told_how_many_it_takes() {
    let folder = flash(&json!({}));
    let model = text(folder.path());
    let found = plan(&[model, "--gpu", "1x4090"]);
    assert_eq!((&found["fits"], &found["devices_needed"]), (&json!(false), &json!(4)));
    assert_eq!(
        (&found["max_context"], &found["decode_bound_tokens_per_s"]),
        (&Value::Null, &Value::Null)
    );
    let page = glm(&["plan", model, "--gpu", "1x4090"]);
    assert!(page.stdout.contains("no; needs 4 of them"), "{page:?}");

    // The same GPU in other words, without its speed.
    let custom = plan(&[model, "--gpu", "8x", "--gpu-memory", "25.75"]);
    assert_eq!((&custom["fits"], &custom["devices_needed"]), (&json!(true), &json!(4)));
    assert_eq!(
        custom["split"],
        json!({
            "devices": 8, "tensor": 4, "groups": 2,
            "experts_per_device": 8, "expert_width_per_device": null
        })
    );
    assert_eq!(custom["decode_bound_tokens_per_s"], Value::Null);
    let page = glm(&["plan", model, "--gpu-memory", "25.75", "--bandwidth", "1008"]);
    for said in ["needs 4 of them", "at most", "is a bound", "runs on one device today"] {
        assert!(page.stdout.contains(said), "`{said}` is not in {page:?}");
    }
}

#[test]
fn without_a_gpu_there_is_a_table() {
    let folder = flash(&json!({}));
    let page = glm(&["plan", text(folder.path())]).stdout;
    for said in ["29.94 B total", "54.14 KB per token", "WEIGHTS", "experts", "GPUs that it takes"]
    {
        assert!(page.contains(said), "`{said}` is not in {page}");
    }
    let row = page.lines().find(|line| line.starts_with("H100 ")).expect("a row");
    assert!(row.contains("80 GB   1 "), "{row}");
    let found = plan(&[text(folder.path())]);
    assert_eq!((&found["fits"], &found["gpu"]), (&Value::Null, &Value::Null));
    let row = found["gpus"]
        .as_array()
        .expect("an array")
        .iter()
        .find(|row| row["gpu"]["name"] == "RTX-4090");
    assert_eq!(row.expect("listed")["devices_needed"], 4, "{found:#}");
}

#[test]
fn the_list_of_the_shards_is_compared() {
    for (total_size, said) in [
        (json!(62_442_983_168_u64), "the list of the shards agrees"),
        (json!(62_442_983_168.0), "the list of the shards agrees"),
        (json!(61_174_206_208_u64), "without copies of embedding and head"),
        (json!(59_886_793_728_u64), "there is no prediction layer"),
        (json!(62_000_000_000_u64), "442.98 MB less than config.json leads to expect"),
        (json!(63_442_983_168_u64), "1.00 GB more than config.json leads to expect"),
        (Value::Null, "62.44 GB by config.json\n"),
    ] {
        let folder = flash(&json!({}));
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": {}});
        let path = folder.path().join("model.safetensors.index.json");
        fs::write(path, index.to_string()).expect("written");
        let page = glm(&["plan", text(folder.path())]).stdout;
        assert!(page.contains(said), "`{said}` is not in {page}");
    }
    let folder = flash(&json!({}));
    fs::write(folder.path().join("model.safetensors.index.json"), "{").expect("written");
    glm(&["plan", text(folder.path())]).assert_error(&["index.json: "]);
}

#[test]
fn a_hub_model_needs_no_tokenizer() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let repository = cache.path().join("models--nobody--flash");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).expect("created");
    fs::create_dir_all(repository.join("refs")).expect("created");
    fs::write(repository.join("refs/main"), commit).expect("written");
    fs::copy(flash(&json!({})).path().join("config.json"), snapshot.join("config.json"))
        .expect("copied");
    let mut command = glm_command();
    command.env("HF_HUB_CACHE", cache.path()).args(["plan", "nobody/flash", "--gpu", "2xh200"]);
    let ended = ended(command.output().expect("glm starts"));
    assert!(ended.stdout.contains("2 x H200 (sold as 141 GB, "), "{ended:?}");
}

#[test]
fn what_cannot_be_planned_is_named() {
    let usage = |arguments: &[&str], said: &[&str]| {
        let ended = glm(&[&["plan"], arguments].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        for said in said {
            assert!(ended.stderr.contains(said), "`{said}` is not in {ended:?}");
        }
    };
    usage(&["--gpu", "8xfoo"], &["`8xfoo` is not known", "RX-7900-XTX", "--gpu-memory"]);
    usage(&["--gpu", "0xH100"], &["wanted 1 to 1024 devices"]);
    usage(&["--gpu", "8x"], &["--gpu-memory has to say of what"]);
    usage(&["--bandwidth", "900"], &["--gpu"]);
    usage(&["--gpu-memory", "-3"], &["more than 0"]);
    usage(&["--gpu-memory", "nan"], &["more than 0"]);
    usage(&["--batch", "0"], &["whole number from 1"]);

    let refused = |arguments: &[&str], said: &[&str]| {
        glm(&[&["plan"], arguments].concat()).assert_error(said);
    };
    refused(&["--context", "8193"], &["context is 8193", "8192 tokens"]);
    refused(&["nowhere"], &["`nowhere`"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    refused(&[text(folder.path())], &["config.json"]);
    let file = folder.path().join("other.json");
    for (content, said) in [
        ("[]", "not a valid JSON object"),
        (r#"{"model_type": "llama"}"#, "`model_type` is `llama`"),
        (r#"{"model_type": "glm4_moe"}"#, "is missing"),
    ] {
        fs::write(&file, content).expect("written");
        refused(&[text(&file)], &["other.json", said]);
    }
}

#[test]
fn every_published_configuration_is_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/configs");
    let Ok(files) = fs::read_dir(&folder) else {
        eprintln!("skipped: no {}", folder.display());
        return;
    };
    let files: Vec<PathBuf> = files.map(|file| file.expect("listed").path()).collect();
    assert_eq!(files.len(), 11);
    for file in files {
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a name");
        let found = plan(&[text(&file), "--gpu", "H200"]);
        let wanted = match name {
            "GLM-4.7-Flash" | "GLM-4.5-Air-FP8" => 1,
            "GLM-4.5-Air" | "GLM-4.5-Air-Base" => 2,
            _ if name.ends_with("-FP8") => 4,
            _ => 8,
        };
        assert_eq!(found["devices_needed"], wanted, "{name}");
        let fp8 = if name.ends_with("-FP8") { "fp8" } else { "none" };
        assert_eq!(found["quantization"], fp8, "{name}");
        assert!(found["decode_bound_tokens_per_s"].as_f64().is_some_and(|rate| rate > 100.0));
    }
}
