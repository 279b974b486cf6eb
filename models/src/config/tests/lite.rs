use glm_backends::ranks::Rank;
use serde_json::{Value, json};

use super::{BF16, Config, Parameters, assert_refused, read};
use crate::glm4_moe_lite;
use crate::model::Model;

/// GLM-4.7-Flash's published file.
fn flash() -> Value {
    json!({
        "architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "pad_token_id": 154_820,
        "eos_token_id": [154_820, 154_827, 154_829], "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 10_240, "max_position_embeddings": 202_752,
        "model_type": "glm4_moe_lite", "moe_intermediate_size": 1536, "topk_method": "noaux_tc",
        "norm_topk_prob": true, "num_attention_heads": 20, "n_group": 1, "topk_group": 1,
        "n_routed_experts": 64, "n_shared_experts": 1, "routed_scaling_factor": 1.8,
        "num_experts_per_tok": 4, "first_k_dense_replace": 1, "num_hidden_layers": 47,
        "num_key_value_heads": 20, "num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 1_000_000,
        "tie_word_embeddings": false, "dtype": "bfloat16", "q_lora_rank": 768,
        "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
        "vocab_size": 154_880
    })
}

/// The same as it is read.
pub(crate) fn flash_config() -> Config {
    Config::Glm4MoeLite(accepted(&json!({})))
}

fn accepted(change: &Value) -> glm4_moe_lite::Config {
    match read(flash(), change) {
        Ok(Config::Glm4MoeLite(config)) => config,
        other => panic!("{change}: {other:?}"),
    }
}

fn refused(change: &Value, message: &str) {
    assert_refused(read(flash(), change), change, message);
}

#[test]
fn reads_the_published_file() {
    let config = accepted(&json!({}));
    assert_eq!((config.q_lora_rank, config.kv_lora_rank), (Some(768), 512));
    assert_eq!((config.qk_head_dim(), config.v_head_dim), (256, 256));
    assert_eq!((config.rope_theta, config.rope_interleave), (1e6, true));
    assert_eq!((config.rms_norm_eps, config.routed_scaling_factor), (1e-5, 1.8));
    assert_eq!(config.eos_token_id, [154_820, 154_827, 154_829]);
    assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
    let whole = flash_config();
    assert_eq!((whole.num_hidden_layers(), whole.dense_layers()), (47, 1));
}

#[test]
fn parameters_and_cache_of_the_published_model() {
    let config = accepted(&json!({}));
    let wanted = Parameters { total: 29_943_393_920, active: 3_262_377_600, mtp: 1_278_094_656 };
    assert_eq!(config.parameters(), wanted);
    assert_eq!(wanted.total + wanted.mtp, 31_221_488_576);
    assert_eq!(flash_config().kv_bytes_per_token(BF16), 54_144);
    let cache = Model::kv_spec(&flash_config(), Rank::new(1, 4));
    assert_eq!(cache.bytes_per_token(BF16), 54_144, "every rank holds all of it");
}

#[test]
fn queries_without_a_latent() {
    let mut direct = flash();
    direct["q_lora_rank"] = Value::Null;
    let Config::Glm4MoeLite(config) = read(direct, &json!({})).expect("null is a value") else {
        panic!("another family")
    };
    assert_eq!(config.q_lora_rank, None);
    let saved = 2048 * 768 + 768 + 768 * 20 * 256 - 2048 * 20 * 256;
    let latent = accepted(&json!({})).parameters().total;
    assert_eq!(latent as i64 - config.parameters().total as i64, 47 * saved);
}

#[test]
fn absent_keys_take_the_documented_defaults() {
    let config = accepted(&json!({
        "attention_bias": null, "eos_token_id": null, "first_k_dense_replace": null,
        "hidden_act": null, "max_position_embeddings": null, "n_group": null,
        "n_shared_experts": null, "norm_topk_prob": null, "num_key_value_heads": null,
        "num_nextn_predict_layers": null, "partial_rotary_factor": null, "rms_norm_eps": null,
        "routed_scaling_factor": null, "tie_word_embeddings": null, "topk_group": null,
    }));
    let wanted = glm4_moe_lite::Config { eos_token_id: vec![], ..accepted(&json!({})) };
    assert_eq!(config, wanted);
    assert_eq!(accepted(&json!({"rope_theta": null})).rope_theta, 1e4);
    assert!(!accepted(&json!({"rope_interleave": false})).rope_interleave);
    let block = json!({"rope_theta": null, "partial_rotary_factor": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}});
    assert_eq!(accepted(&block), accepted(&json!({})));
}

#[test]
fn required_keys() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "vocab_size",
    ] {
        refused(&json!({ key: null }), &format!("`{key}` is missing"));
    }
}

#[test]
fn what_the_formulas_do_not_cover_is_refused() {
    refused(&json!({"attention_bias": true}), "`attention_bias` is true, wanted false");
    refused(&json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5, wanted 1");
    refused(
        &json!({"rope_scaling": {"type": "yarn", "factor": 4, "mscale_all_dim": 1}}),
        "`rope_scaling.type` is `yarn`, wanted `default` (no scaling)",
    );
    refused(
        &json!({"num_key_value_heads": 4}),
        "`num_key_value_heads` is 4, wanted num_attention_heads (20)",
    );
    refused(&json!({"qk_rope_head_dim": 63}), "`qk_rope_head_dim` is 63, wanted an even number");
    refused(&json!({"scoring_func": "softmax"}), "`scoring_func` is `softmax`, wanted `sigmoid`");
    refused(&json!({"n_group": 3}), "`n_group` is 3, wanted a divisor of n_routed_experts (64)");
    refused(
        &json!({"max_position_embeddings": 1_u32 << 30}),
        "`max_position_embeddings` is 1073741824, wanted at most 16777216",
    );
}

#[test]
fn sizes_do_not_overflow() {
    let most = i32::MAX;
    let config = accepted(&json!({
        "hidden_size": most, "intermediate_size": most, "moe_intermediate_size": most,
        "num_hidden_layers": 4096, "num_attention_heads": most, "num_key_value_heads": most,
        "q_lora_rank": most, "kv_lora_rank": most, "qk_nope_head_dim": most,
        "qk_rope_head_dim": most - 1, "v_head_dim": most, "n_routed_experts": 65536,
        "n_shared_experts": most, "vocab_size": most, "num_nextn_predict_layers": 4096
    }));
    assert_eq!(config.parameters().total, u64::MAX);
    let bytes = 4096 * 2 * (2 * u64::from(most.unsigned_abs()) - 1);
    assert_eq!(Config::Glm4MoeLite(config).kv_bytes_per_token(BF16), bytes);
}
