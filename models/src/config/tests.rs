use std::io::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use glm_backends::kv::KvFormat;
use serde_json::{Value, json};

use super::{ActivationScheme, Config, ConfigError, Parameters, ScaleLayout};
use crate::glm4_moe;
use crate::inventory::TensorGroup;

mod lite;

pub(crate) use lite::flash_config;

const BF16: KvFormat = KvFormat::Float(DType::BF16);

/// GLM-4.5-Air's published file.
fn air() -> Value {
    json!({
        "architectures": ["Glm4MoeForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
        "eos_token_id": [151_329, 151_336, 151_338], "pad_token_id": 151_329, "head_dim": 128,
        "hidden_act": "silu", "initializer_range": 0.02, "model_type": "glm4_moe", "n_group": 1,
        "topk_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 96,
        "num_key_value_heads": 8, "num_experts_per_tok": 8, "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "rope_scaling": null,
        "rope_theta": 1_000_000, "tie_word_embeddings": false, "use_cache": true,
        "vocab_size": 151_552, "torch_dtype": "bfloat16", "hidden_size": 4096,
        "intermediate_size": 10_944, "moe_intermediate_size": 1408, "num_hidden_layers": 46,
        "first_k_dense_replace": 1, "n_routed_experts": 128, "routed_scaling_factor": 1.0,
        "use_qk_norm": false, "max_position_embeddings": 131_072
    })
}

/// GLM-4.5-Air with the keys of `change` replaced.
pub(crate) fn air_config(change: &Value) -> Config {
    Config::Glm4Moe(accepted(change))
}

/// GLM-4.5 with the keys of `change` replaced.
pub(crate) fn large_config(change: &Value) -> Config {
    let mut all = large();
    let keys = change.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(keys);
    air_config(&all)
}

/// Air's file with the keys of `change` replaced; `null` there takes the key out.
fn changed(change: &Value) -> Result<glm4_moe::Config, ConfigError> {
    read(air(), change).map(main_family)
}

fn main_family(config: Config) -> glm4_moe::Config {
    match config {
        Config::Glm4Moe(config) => config,
        other => panic!("another family: {other:?}"),
    }
}

/// The file `value` with the keys of `change` replaced.
fn read(mut value: Value, change: &Value) -> Result<Config, ConfigError> {
    let keys = value.as_object_mut().expect("an object");
    for (key, new) in change.as_object().expect("an object") {
        match new {
            Value::Null => keys.remove(key),
            new => keys.insert(key.clone(), new.clone()),
        };
    }
    Config::from_json(&value.to_string(), Path::new("m/config.json"))
}

fn accepted(change: &Value) -> glm4_moe::Config {
    changed(change).unwrap_or_else(|error| panic!("{change}: {error}"))
}

fn refused(change: &Value, message: &str) {
    assert_refused(read(air(), change), change, message);
}

fn assert_refused(read: Result<Config, ConfigError>, change: &Value, message: &str) {
    let error = read.expect_err(&change.to_string());
    assert_eq!(error.to_string(), format!("m/config.json: {message}"), "for {change}");
}

#[test]
fn reads_the_published_file() {
    let config = accepted(&json!({}));
    assert_eq!((config.hidden_size, config.head_dim, config.rotary_dim()), (4096, 128, 64));
    assert_eq!((config.rope_theta, config.rms_norm_eps), (1e6, 1e-5));
    assert_eq!(config.eos_token_id, [151_329, 151_336, 151_338]);
    assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
    assert_eq!([0, 1, 45, 46].map(|layer| config.is_moe_layer(layer)), [false, true, true, true]);
}

#[test]
fn new_style_rope_block_means_the_same() {
    let new = json!({
        "rope_theta": null, "partial_rotary_factor": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    });
    assert_eq!(accepted(&new), accepted(&json!({})));
    // The block wins over the keys beside it, as in transformers.
    let both =
        accepted(&json!({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.25}}));
    assert_eq!((both.rope_theta, both.rotary_dim()), (5e5, 32));
    let scaling = accepted(&json!({"rope_scaling": {"type": "default"}}));
    assert_eq!(scaling, accepted(&json!({})));
}

#[test]
fn absent_keys_take_the_documented_defaults() {
    let config = accepted(&json!({
        "attention_bias": null, "eos_token_id": null, "head_dim": null, "hidden_act": null,
        "n_group": null, "topk_group": null, "n_shared_experts": null, "norm_topk_prob": null,
        "partial_rotary_factor": null, "num_nextn_predict_layers": null, "rms_norm_eps": null,
        "rope_theta": null, "num_attention_heads": 64, "tie_word_embeddings": null,
        "torch_dtype": null, "first_k_dense_replace": null, "routed_scaling_factor": null,
        "use_qk_norm": null, "max_position_embeddings": null
    }));
    assert_eq!((config.head_dim, config.rotary_dim(), config.rope_theta), (64, 32, 1e4));
    assert_eq!(
        (config.attention_bias, config.use_qk_norm, config.norm_topk_prob),
        (false, false, true)
    );
    assert_eq!((config.n_group, config.topk_group, config.n_shared_experts), (1, 1, 1));
    assert_eq!((config.first_k_dense_replace, config.num_nextn_predict_layers), (1, 1));
    assert_eq!((config.rms_norm_eps, config.routed_scaling_factor), (1e-5, 1.0));
    assert_eq!((config.max_position_embeddings, config.tie_word_embeddings), (131_072, false));
    assert_eq!((config.eos_token_id, config.dtype), (vec![], None));
}

#[test]
fn other_spellings() {
    assert_eq!(accepted(&json!({"eos_token_id": 7})).eos_token_id, [7]);
    assert_eq!(
        accepted(&json!({"torch_dtype": "float16", "dtype": "float32"})).dtype.as_deref(),
        Some("float32")
    );
    let mtp = accepted(&json!({"num_nextn_predict_layers": null, "num_mtp_layers": 0}));
    assert_eq!(mtp.parameters().mtp, 0);
    accepted(&json!({"scoring_func": "sigmoid", "topk_method": "noaux_tc"}));
    let kinds: Vec<_> = (0..46).map(|layer| if layer == 0 { "dense" } else { "sparse" }).collect();
    accepted(&json!({"mlp_layer_types": kinds}));
    accepted(&json!({"n_group": 8, "topk_group": 2}));
    accepted(&json!({"some_new_flag": {"a": [1]}, "attention_dropout": 0.1}));
}

#[test]
fn parameter_counts_of_the_published_models() {
    // Air's published logical count leaves the selection biases out: 128 for each of 45 layers.
    let air = accepted(&json!({})).parameters();
    assert_eq!(air.total, 106_852_245_504 + 5_760);
    assert_eq!(air.total + air.mtp, 110_468_824_832);
    assert_eq!(air.active / 100_000_000, 121, "the card says 12B");

    let large = accepted(&large());
    let wanted = Parameters { total: 352_797_829_024, active: 32_080_373_664, mtp: 5_539_962_272 };
    assert_eq!(large.parameters(), wanted);
    assert_eq!(large_config(&json!({})).kv_bytes_per_token(BF16), 376_832);
    assert_eq!(air_config(&json!({})).kv_bytes_per_token(BF16), 188_416);

    let tensors = |groups: Vec<TensorGroup>| groups.iter().map(TensorGroup::count).sum::<u128>();
    assert_eq!(tensors(large.tensor_groups()), 44_691);
    assert_eq!(tensors(flash_config().tensor_groups()), 9_703);

    let tied = accepted(&json!({"tie_word_embeddings": true})).parameters();
    assert_eq!(air.total - tied.total, 151_552 * 4096);
    assert_eq!(air.active, tied.active);
}

/// What GLM-4.5, 4.6 and 4.7 change.
fn large() -> Value {
    json!({
        "hidden_size": 5120, "intermediate_size": 12_288, "moe_intermediate_size": 1536,
        "num_hidden_layers": 92, "first_k_dense_replace": 3, "n_routed_experts": 160,
        "routed_scaling_factor": 2.5, "use_qk_norm": true
    })
}

#[test]
fn sizes_do_not_overflow() {
    let most = i32::MAX;
    let config = accepted(&json!({
        "hidden_size": most, "intermediate_size": most, "moe_intermediate_size": most,
        "num_hidden_layers": 4096, "num_attention_heads": most, "num_key_value_heads": most,
        "n_routed_experts": 65536, "head_dim": most, "n_shared_experts": most, "vocab_size": most,
        "num_nextn_predict_layers": 4096,
        "partial_rotary_factor": 0.1
    }));
    assert_eq!(config.parameters().total, u64::MAX);
    assert_eq!(Config::Glm4Moe(config).kv_bytes_per_token(BF16), u64::MAX);
}

#[test]
fn families() {
    refused(
        &json!({"model_type": "llama"}),
        "`model_type` is `llama`, wanted one of: glm4_moe, glm4_moe_lite",
    );
    refused(&json!({"model_type": null}), "`model_type` is missing");
    refused(&json!({"model_type": 4}), "`model_type` is 4, wanted a string");
}

#[test]
fn text_that_is_not_a_json_object() {
    for text in
        ["", "{\"model_type\": ", "[1]", "null", "{\"rope_theta\": NaN}", "{\"rope_theta\": 1e999}"]
    {
        let error = Config::from_json(text, Path::new("m/config.json")).expect_err(text);
        assert_eq!(error.to_string(), "m/config.json: not a valid JSON object", "for {text}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn required_keys() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "vocab_size",
    ] {
        refused(&json!({ key: null }), &format!("`{key}` is missing"));
        refused(
            &json!({ key: 0 }),
            &format!("`{key}` is 0, wanted a whole number from 1 to 2147483647"),
        );
    }
    refused(&json!({"head_dim": null, "hidden_size": 4097}), "`head_dim` is missing");
}

#[test]
fn types_and_ranges() {
    let size = "wanted a whole number from 1 to 2147483647";
    refused(&json!({"hidden_size": "4096"}), &format!("`hidden_size` is \"4096\", {size}"));
    refused(&json!({"hidden_size": 4096.5}), &format!("`hidden_size` is 4096.5, {size}"));
    refused(&json!({"hidden_size": -1}), &format!("`hidden_size` is -1, {size}"));
    refused(&json!({"vocab_size": 1_u64 << 40}), &format!("`vocab_size` is 1099511627776, {size}"));
    refused(&json!({"n_shared_experts": 0}), &format!("`n_shared_experts` is 0, {size}"));
    refused(&json!({"use_qk_norm": 1}), "`use_qk_norm` is 1, wanted true or false");
    refused(&json!({"rope_theta": "1e6"}), "`rope_theta` is \"1e6\", wanted a number");
    refused(&json!({"rope_theta": 0}), "`rope_theta` is 0, wanted a number above 0");
    refused(&json!({"rms_norm_eps": 0.0}), "`rms_norm_eps` is 0, wanted a number above 0");
    let ids = "wanted a token id or a list of token ids";
    refused(&json!({"eos_token_id": [1, -1]}), &format!("`eos_token_id` is [1,-1], {ids}"));
    refused(
        &json!({"eos_token_id": "x".repeat(80)}),
        &format!("`eos_token_id` is \"{}…, {ids}", "x".repeat(59)),
    );
    refused(&json!({"rope_parameters": 4}), "`rope_parameters` is 4, wanted an object");
}

#[test]
fn other_formulas() {
    refused(&json!({"hidden_act": "gelu"}), "`hidden_act` is `gelu`, wanted `silu`");
    refused(&json!({"scoring_func": "softmax"}), "`scoring_func` is `softmax`, wanted `sigmoid`");
    refused(&json!({"topk_method": "greedy"}), "`topk_method` is `greedy`, wanted `noaux_tc`");
    refused(&json!({"sliding_window": 4096}), "`sliding_window` is 4096, wanted null");
    refused(&json!({"moe_layer_freq": 2}), "`moe_layer_freq` is 2, wanted 1");
    refused(
        &json!({"torch_dtype": "float8"}),
        "`torch_dtype` is `float8`, wanted `bfloat16`, `float16` or `float32`",
    );
    let plain = "wanted `default` (no scaling)";
    refused(
        &json!({"rope_scaling": {"type": "yarn", "factor": 4}}),
        &format!("`rope_scaling.type` is `yarn`, {plain}"),
    );
    let linear = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}});
    refused(&linear, &format!("`rope_parameters.rope_type` is `linear`, {plain}"));
    refused(
        &json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        "`quantization_config.quant_method` is `gptq`, wanted `compressed-tensors` with format \
         `float-quantized` (8-bit float weights per channel, tensor or block), or `fp8` with fmt \
         `e4m3`",
    );
}

#[test]
fn dimensions_that_do_not_fit_together() {
    let divisor = "wanted a divisor of";
    refused(
        &json!({"num_key_value_heads": 7}),
        &format!("`num_key_value_heads` is 7, {divisor} num_attention_heads (96)"),
    );
    refused(
        &json!({"head_dim": 18}),
        "`partial_rotary_factor` is 0.5, wanted an even number of rotated dimensions, not \
         9 of head_dim 18",
    );
    refused(
        &json!({"partial_rotary_factor": 1.5}),
        "`partial_rotary_factor` is 1.5, wanted above 0 and at most 1",
    );
    refused(&json!({"n_group": 3}), &format!("`n_group` is 3, {divisor} n_routed_experts (128)"));
    refused(
        &json!({"n_group": 128}),
        "`n_group` is 128, wanted groups of at least 2 of the 128 experts",
    );
    refused(
        &json!({"n_group": 2, "topk_group": 3}),
        "`topk_group` is 3, wanted at most n_group (2)",
    );
    let choice = "wanted at most the 128 experts that a token may choose from";
    refused(
        &json!({"num_experts_per_tok": 129}),
        &format!("`num_experts_per_tok` is 129, {choice}"),
    );
    let choice = "wanted at most the 4 experts that a token may choose from";
    refused(&json!({"n_group": 32}), &format!("`num_experts_per_tok` is 8, {choice}"));
    let types = json!({"mlp_layer_types": ["dense", "sparse"]});
    refused(&types, "`mlp_layer_types` is a list of 2, wanted num_hidden_layers (46) entries");
    let types = json!({"num_hidden_layers": 2, "mlp_layer_types": ["dense", "dense"]});
    refused(
        &types,
        "`mlp_layer_types[1]` is `dense`, wanted `sparse`, because first_k_dense_replace is 1",
    );
    // The list alone says it too, as transformers 5 writes it.
    let listed = |kinds: Value| json!({"num_hidden_layers": 3, "first_k_dense_replace": null, "mlp_layer_types": kinds});
    for (kinds, dense) in [
        (json!(["dense", "dense", "sparse"]), 2),
        (json!(["sparse", "sparse", "sparse"]), 0),
        (json!(["dense", "dense", "dense"]), 3),
    ] {
        assert_eq!(accepted(&listed(kinds)).first_k_dense_replace, dense);
    }
    refused(
        &listed(json!(["dense", "sparse", "dense"])),
        "`mlp_layer_types[2]` is `dense`, wanted `sparse`, because first_k_dense_replace is 1",
    );
}

/// Folder with the configurations of the published checkpoints, where it is there.
fn published() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/configs"));
    folder.is_dir().then_some(folder)
}

#[test]
fn published_configurations() {
    let Some(folder) = published() else {
        drop(writeln!(
            std::io::stderr(),
            "skipped: no folder shared/data/configs beside the repository"
        ));
        return;
    };
    let read = |name: &str| {
        let path = folder.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).expect(name);
        Config::from_json(&text, &path)
    };
    let mut newer = large();
    newer["max_position_embeddings"] = json!(202_752);
    for (name, wanted) in [
        ("GLM-4.5-Air", json!({})),
        ("GLM-4.5-Air-Base", json!({})),
        ("GLM-4.5", large()),
        ("GLM-4.5-Base", large()),
        ("GLM-4.6", newer.clone()),
        ("GLM-4.7", newer),
    ] {
        assert_eq!(main_family(read(name).expect(name)), accepted(&wanted), "{name}");
    }
    for name in ["GLM-4.5", "GLM-4.5-Air", "GLM-4.6", "GLM-4.7"] {
        let mut quantised = main_family(read(&format!("{name}-FP8")).expect(name));
        let block = quantised.quantization.take().expect("a quantisation");
        assert_eq!(quantised, main_family(read(name).expect(name)), "{name}");
        assert_eq!(block.scales, ScaleLayout::Channel, "{name}");
        assert_eq!(block.activations, Some(ActivationScheme::Token), "{name}");
        for (module, ignored) in [
            ("lm_head", true),
            ("model.layers.5.mlp.gate", true),
            ("model.layers.5.self_attn.q_proj", false),
            ("model.layers.5.mlp.experts.3.down_proj", false),
        ] {
            assert_eq!(block.ignores(module), ignored, "{name}: {module}");
        }
    }
    assert_eq!(read("GLM-4.7-Flash").expect("Flash"), flash_config());
}
