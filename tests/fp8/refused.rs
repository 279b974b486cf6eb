use glm_runtime::load::ModelFiles;
use glm_runtime::{DtypeChoice, EngineConfig};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::support::checkpoint::{Checkpoint, Stored};
use crate::support::fp8::{DraftHead, Layout, NAN, Scales, quantised};
use crate::support::oracle;

const EXPERT: &str = "model.layers.1.mlp.experts.3.up_proj";
const QUERY: &str = "model.layers.2.self_attn.q_proj";

fn hub() -> Checkpoint {
    quantised(&Checkpoint::built_in(), Layout::HUB).0
}

fn blocks() -> Checkpoint {
    let layout = Layout {
        scales: Scales::Blocks([128, 128]),
        dtype: Dtype::BF16,
        draft_head: DraftHead::Kept,
    };
    quantised(&Checkpoint::built_in(), layout).0
}

/// The message of a checkpoint that does not load holds all of `wanted`.
fn refused(model: &Checkpoint, wanted: &[&str]) {
    let message = model.load().err().map(|error| error.to_string());
    let message = message.unwrap_or_else(|| panic!("it loads; wanted {wanted:?}"));
    for part in wanted {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
}

#[test]
fn scales_that_are_missing_or_of_another_length() {
    for module in [EXPERT, QUERY] {
        let (weight, scale) = (format!("{module}.weight"), format!("{module}.weight_scale"));
        let mut model = hub();
        model.tensors.remove(&scale).expect("there");
        refused(&model, &[&weight, &scale]);

        let rows = hub().tensors[&scale].shape[0];
        for shape in [vec![rows - 1, 1], vec![rows + 1, 1], vec![rows + 1], vec![1], vec![1, rows]]
        {
            let mut model = hub();
            let values = vec![1.0; shape.iter().product()];
            model.tensors.insert(scale.clone(), Stored::of(Dtype::BF16, &shape, &values));
            refused(&model, &[&scale, &format!("{shape:?}"), &format!("[{rows}, 1]")]);
        }

        let mut model = blocks();
        let wanted = format!("{:?}", model.tensors[&scale].shape);
        model.tensors.insert(scale.clone(), Stored::of(Dtype::BF16, &[7, 7], &[1.0; 49]));
        refused(&model, &[&scale, "[7, 7]", &wanted]);
    }
}

#[test]
fn scales_of_another_type() {
    let mut model = hub();
    let scale = format!("{QUERY}.weight_scale");
    let shape = model.tensors[&scale].shape.clone();
    let codes = Stored::new(Dtype::F8_E4M3, &shape, vec![0x38; shape[0]]);
    model.tensors.insert(scale.clone(), codes);
    refused(&model, &[&scale, "F8_E4M3", "BF16, F16 or F32"]);
}

#[test]
fn tensors_and_configuration_that_disagree() {
    // In the ignore list, and stored in FP8.
    let mut model = hub();
    let ignore = model.config["quantization_config"]["ignore"].as_array_mut().expect("a list");
    ignore.push(json!(EXPERT));
    refused(&model, &[&format!("{EXPERT}.weight"), "ignore list"]);

    // FP8 without a word in config.json.
    let mut model = hub();
    model.config.as_object_mut().expect("an object").remove("quantization_config");
    refused(&model, &["`model.layers.0.self_attn.q_proj.weight`", "F8_E4M3"]);

    // A scale beside a weight that is not FP8: used by nothing.
    let mut model = hub();
    let name = format!("{QUERY}.weight");
    model.tensors.insert(name.clone(), Checkpoint::built_in().tensors[&name].clone());
    refused(&model, &["1 tensor more", &format!("{QUERY}.weight_scale")]);

    // Some experts of a layer in FP8, one not.
    let mut model = hub();
    let name = format!("{EXPERT}.weight");
    model.tensors.insert(name.clone(), Checkpoint::built_in().tensors[&name].clone());
    refused(&model, &[&name, "F8_E4M3"]);
}

#[test]
fn quantisations_that_are_not_read() {
    let supported = "`float-quantized`";
    let group = "/quantization_config/config_groups/group_0";
    let replaced = |value: Value| ("/quantization_config".to_owned(), value);
    let changed = |key: &str, value: Value| (format!("/quantization_config/{key}"), value);
    let static_activations = json!({"num_bits": 8, "type": "float", "dynamic": false,
                                    "strategy": "tensor", "symmetric": true});
    for ((pointer, value), wanted) in [
        (replaced(json!({"quant_method": "gptq", "bits": 4})), &["`gptq`", supported][..]),
        (replaced(json!({"quant_method": "awq", "bits": 4})), &["`awq`", supported]),
        (replaced(json!({"bits": 4})), &["quant_method", supported]),
        (changed("format", json!("nvfp4-pack-quantized")), &["`nvfp4-pack-quantized`", supported]),
        (changed("format", json!("int-quantized")), &["`int-quantized`", supported]),
        (changed("format", json!("pack-quantized")), &["`pack-quantized`", supported]),
        (changed("kv_cache_scheme", json!({"num_bits": 8, "type": "float"})), &["kv_cache_scheme"]),
        ((format!("{group}/input_activations"), static_activations), &["dynamic", "false"]),
        ((format!("{group}/weights/num_bits"), json!(4)), &["num_bits", "4"]),
        (
            replaced(json!({"quant_method": "fp8", "activation_scheme": "static"})),
            &["activation_scheme", "`static`"],
        ),
        (replaced(json!({"quant_method": "fp8", "fmt": "e5m2"})), &["fmt", "`e5m2`"]),
    ] {
        let mut model = hub();
        *model.config.pointer_mut(&pointer).expect("there") = value;
        let folder = model.write();
        let error = ModelFiles::open(folder.path()).expect_err(&pointer).to_string();
        for part in [&["config.json", "quantization_config"], wanted].concat() {
            assert!(error.contains(part), "`{part}` is not in `{error}`");
        }
    }
}

#[test]
fn weights_that_are_not_numbers() {
    let bf16_nan = 0x7fc0u16.to_le_bytes();
    let negative_nan = NAN | 0x80;
    for (name, bytes) in [
        (format!("{EXPERT}.weight"), &[NAN][..]),
        (format!("{QUERY}.weight"), &[negative_nan]),
        (format!("{QUERY}.weight_scale"), &bf16_nan),
        (format!("{QUERY}.bias"), &bf16_nan),
        ("model.norm.weight".to_owned(), &bf16_nan),
        ("model.embed_tokens.weight".to_owned(), &bf16_nan),
        ("model.layers.1.mlp.gate.weight".to_owned(), &bf16_nan),
    ] {
        let mut model = hub();
        let stored = model.tensors.get_mut(&name).expect("there");
        // The last element: none is left unread.
        let end = stored.bytes.len();
        stored.bytes[end - bytes.len()..].copy_from_slice(bytes);
        refused(&model, &[&format!("`{name}`"), "NaN", "--allow-nan"]);
        let device = oracle::device("cpu").expect("the CPU");
        let config =
            EngineConfig { dtype: DtypeChoice::F32, allow_nan: true, ..EngineConfig::default() };
        model.load_on(&device, &config).expect("told to load it");
    }
    let mut model = hub();
    let scale = format!("{QUERY}.weight_scale");
    let stored = model.tensors.get_mut(&scale).expect("there");
    stored.bytes[1] |= 0x80;
    refused(&model, &[&format!("`{scale}`"), "wanted none below 0"]);

    let mut model = Checkpoint::built_in();
    let stored = model.tensors.get_mut(&format!("{EXPERT}.weight")).expect("there");
    stored.bytes[..2].copy_from_slice(&0xff80u16.to_le_bytes());
    refused(&model, &[&format!("`{EXPERT}.weight`"), "infinite"]);
}
