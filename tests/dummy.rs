//! The published configurations, made narrow and shallow, with random weights: each builds, runs
//! and drafts.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use glm_models::model::Parts;
use glm_models::weights::StoredDtype;
use glm_runtime::load::{EmbeddedModel, ModelFiles, WeightSource};
use glm_runtime::{DtypeChoice, Engine, EngineConfig, Fp8Choice, QuantChoice};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::oracle::{self, floats};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];
const TOKENIZER: &[u8] = include_bytes!("../cli/assets/glm-tiny/tokenizer.json");

/// glm-tiny's tokenizer, for folders that have none.
const STAND_IN: EmbeddedModel = EmbeddedModel {
    config: "{}",
    generation_config: "{}",
    tokenizer: TOKENIZER,
    chat_template: "{{ messages }}",
    tokenizer_config: "{}",
    weights: &[],
};

#[test]
fn every_published_configuration_builds_and_runs_on_the_cpu() {
    let Some(files) = published() else { return };
    assert_eq!(files.len(), 11);
    for file in files {
        check(&file, "cpu", &EngineConfig::default());
    }
}

#[test]
fn other_numerics_run_too() {
    let Some(files) = published() else { return };
    for file in files {
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a name");
        let (fp8, quant) = match name {
            "GLM-4.5-Air-FP8" => (Fp8Choice::W8a8, QuantChoice::None),
            "GLM-4.5-Air" | "GLM-4.7-Flash" => (Fp8Choice::W8a16, QuantChoice::Fp8),
            _ => continue,
        };
        let config = EngineConfig { fp8, quant, ..EngineConfig::default() };
        check(&file, "cpu", &config);
        if name == "GLM-4.7-Flash" {
            check(&file, oracle::gpu(), &config);
        }
    }
}

/// Logits of the main model and of a chain of drafts are finite and not all alike.
fn check(file: &Path, device: &str, config: &EngineConfig) {
    let _turn = oracle::turn(device);
    let Some(device) = oracle::device(device) else { return };
    let folder = narrow(file);
    let files = ModelFiles::open_random(folder.path(), 1, &STAND_IN).expect("config.json");
    let WeightSource::Random(weights) = &files.weights else { panic!("random weights") };
    let name = file.display();
    let fp8 = weights.info("model.layers.0.mlp.down_proj.weight").expect("a matrix").dtype;
    assert_eq!(fp8 == StoredDtype::F8E4M3, name.to_string().contains("-FP8"), "{name}");

    let config = EngineConfig {
        dtype: DtypeChoice::F32,
        parts: Parts::MainAndMtp,
        max_context: Some(64),
        ..config.clone()
    };
    let engine = Engine::load(files, &device, &config, &mut |_| ()).expect("load");
    let mut records = engine.trace_forward(&PROMPT, false).expect("forward");
    records.extend(engine.trace_drafts(&PROMPT).expect("drafts"));
    for value in ["logits", "mtp.logits_step1", "mtp.chain_logits"] {
        let values = floats(&records, value);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance =
            values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!((1e-3..1e3).contains(&variance), "{name}: {value} has the variance {variance}");
    }
}

/// A folder with nothing but the configuration, an eighth as wide and with few layers and experts.
fn narrow(file: &Path) -> TempDir {
    let text = std::fs::read_to_string(file).expect("config.json");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let mut set = |key: &str, value: Value| config[key] = value;
    set("num_hidden_layers", json!(4));
    set("n_routed_experts", json!(10));
    set("vocab_size", json!(2304));
    set("eos_token_id", json!([5]));
    for key in ["hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank"] {
        if let Some(width) = config[key].as_u64() {
            config[key] = json!(width / 8);
        }
    }
    for key in ["num_attention_heads", "num_key_value_heads"] {
        config[key] = json!(config[key].as_u64().expect("heads") / 4);
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("config.json");
    folder
}

/// The published configurations beside the repository, or `None` with a printed reason.
fn published() -> Option<Vec<PathBuf>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/configs"));
    let Ok(entries) = std::fs::read_dir(folder) else {
        drop(writeln!(std::io::stderr(), "skipped: no published configurations in ../shared"));
        return None;
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    Some(files)
}
