use serde_json::json;

use super::*;
use crate::config::tests::{air_config, flash_config, large_config};

/// As on the hub: what is no linear layer is not named here, which changes nothing.
fn fp8() -> serde_json::Value {
    let scheme = |dynamic: bool, strategy: &str| json!({"num_bits": 8, "type": "float", "dynamic": dynamic, "strategy": strategy});
    json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": scheme(false, "channel"), "input_activations": scheme(true, "token")
        }},
        "ignore": ["lm_head", "re:.*mlp\\.gate$", "re:.*eh_proj$"]
    }})
}

const DEMAND: Demand = Demand {
    dtype: DType::BF16,
    matrices: DType::BF16,
    quantise: Quantise::No,
    kv: KvFormat::Float(DType::BF16),
    mtp: false,
    context: 32_768,
    batch: 1,
    prefill_chunk: 256,
    max_scores: 1 << 22,
};

/// All values in BF16 but router and selection bias, which are f32: 2 bytes more for each.
#[test]
fn weights_are_the_parameters_at_their_width() {
    for (config, total, mtp, moe_layers, router) in [
        (large_config(&json!({})), 352_797_829_024, 5_539_962_272, 89, 160 * 5121),
        (air_config(&json!({})), 106_852_251_264, 3_616_573_568, 45, 128 * 4097),
        (flash_config(), 29_943_393_920, 1_278_094_656, 46, 64 * 2049),
    ] {
        let parameters = config.parameters();
        assert_eq!((parameters.total, parameters.mtp), (total, mtp));
        let plan = Plan::new(&config, DEMAND);
        assert_eq!(plan.weights_bytes(), 2 * (total + moe_layers * router));
        let parts = plan.weights_by_part();
        assert_eq!(parts.iter().map(|(_, bytes)| bytes).sum::<u64>(), plan.weights_bytes());
        assert!(parts.iter().all(|(part, _)| *part != Part::Prediction));

        let wide = Plan::new(&config, Demand { dtype: DType::F32, matrices: DType::F32, ..DEMAND });
        assert_eq!(wide.weights_bytes(), 4 * total);
        let copies = 2 * config.vocab_size() as u64 * plan.skeleton.hidden_size as u64;
        let predicting = Plan::new(&config, Demand { mtp: true, ..DEMAND });
        assert_eq!(
            predicting.weights_bytes() - plan.weights_bytes(),
            2 * (mtp - copies + router),
            "the layer without copies of embedding and head"
        );
    }
}

#[test]
fn fp8_is_a_byte_a_weight_and_a_scale_a_row() {
    let on_loading = Demand { quantise: Quantise::Fp8, ..DEMAND };
    let stored = Plan::new(&large_config(&fp8()), DEMAND);
    // A checkpoint in FP8 and one that is quantised on loading come to the same.
    assert_eq!(Plan::new(&large_config(&json!({})), on_loading).held, stored.held);

    let attention = 92 * 5120_u64 * (2 * 12_288 + 2 * 1024);
    let attention_scales = 92 * 4 * (12_288 + 2 * 1024 + 5120_u64);
    let attention_rest = 92 * 2 * (12_288 + 2 * 1024_u64);
    let experts = 89 * 160 * 3 * 5120 * 1536_u64;
    let expert_scales = 89 * 160 * 4 * (2 * 1536 + 5120_u64);
    for (part, bytes) in [
        (Part::Embedding, 2 * 151_552 * 5120),
        (Part::Head, 2 * 151_552 * 5120),
        (Part::Attention, attention + attention_scales + attention_rest),
        (Part::RoutedExperts, experts + expert_scales),
        (Part::Router, 89 * 4 * 160 * 5121),
    ] {
        assert!(stored.weights_by_part().contains(&(part, bytes)), "{part:?}");
    }

    // In blocks, the device keeps a scale for each row of a block.
    let mut blocks = fp8();
    let group = &mut blocks["quantization_config"]["config_groups"]["group_0"];
    group["weights"]["strategy"] = json!("block");
    group["weights"]["block_structure"] = json!([128, 128]);
    let blocks = Plan::new(&large_config(&blocks), DEMAND);
    let scales = 89 * 160 * 4 * (2 * 1536 * 40 + 5120 * 12_u64);
    assert!(blocks.weights_by_part().contains(&(Part::RoutedExperts, experts + scales)));
}

#[test]
fn ignored_layers_stay_in_floats() {
    let mut block = fp8();
    let ignored = block.pointer_mut("/quantization_config/ignore").expect("a list");
    ignored.as_array_mut().expect("a list").push(json!("model.layers.0.mlp.down_proj"));
    let (some, all) = (large_config(&block), large_config(&fp8()));
    let more = Plan::new(&some, DEMAND).weights_bytes() - Plan::new(&all, DEMAND).weights_bytes();
    assert_eq!(more, 5120 * 12_288 - 4 * 5120);
    let both = Demand { quantise: Quantise::Fp8, ..DEMAND };
    assert_eq!(
        Plan::new(&some, both).weights_bytes(),
        Plan::new(&all, DEMAND).weights_bytes(),
        "quantised on loading after all"
    );
}

#[test]
fn a_token_of_cache() {
    // Bytes of a layer in BF16 and, with its scales, in FP8; layers.
    for (config, bf16, fp8, layers) in [
        (large_config(&json!({})), 4096, 2 * 8 * (128 + 4), 92),
        (air_config(&json!({})), 4096, 2 * 8 * (128 + 4), 46),
        (flash_config(), 1152, 512 + 64 + 2 * 4, 47),
    ] {
        let of = |kv, mtp| Plan::new(&config, Demand { kv, mtp, ..DEMAND }).kv_bytes_per_token();
        for (kv, layer) in [(DEMAND.kv, bf16), (KvFormat::Fp8, fp8)] {
            assert_eq!([of(kv, false), of(kv, true)], [layers * layer, (layers + 1) * layer]);
        }
    }
}

#[test]
fn layouts_divide_evenly() {
    let counts = |config: &Config| -> Vec<usize> {
        let layouts = Plan::new(config, DEMAND).layouts();
        let mut counts: Vec<usize> = layouts.iter().map(|layout| layout.devices).collect();
        counts.dedup();
        counts
    };
    assert_eq!(counts(&large_config(&json!({}))), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]);
    assert_eq!(counts(&air_config(&json!({}))), [1, 2, 4, 8, 16, 32, 64, 128]);
    assert_eq!(counts(&flash_config()), [1, 2, 4, 8, 16, 32, 64, 128]);

    let plan = Plan::new(&large_config(&json!({})), DEMAND);
    let layout = |devices| plan.layout_within(devices, 0);
    let whole = |devices, experts| Layout {
        devices,
        tensor: devices,
        groups: 1,
        experts: ExpertSplit::Whole(experts),
    };
    assert_eq!([layout(1), layout(7), layout(8)], [whole(1, 160), whole(4, 40), whole(8, 20)]);
    // 160 experts do not divide by 24, their width does.
    assert_eq!(layout(24).experts, ExpertSplit::Width(64));
    // 20 heads: two groups of 4 devices share the experts.
    let flash = Plan::new(&flash_config(), DEMAND).layout_within(8, 0);
    assert_eq!((flash.tensor, flash.groups, flash.experts), (4, 2, ExpertSplit::Whole(8)));
}

#[test]
fn what_is_divided_and_what_is_not() {
    let config = large_config(&json!({}));
    let plan = Plan::new(&config, DEMAND);
    let part = |wanted| {
        let parts = plan.weights_by_part();
        parts.into_iter().find(|(part, _)| *part == wanted).expect("there").1
    };
    let whole = [Part::Embedding, Part::Head, Part::Norm, Part::Router].map(part);
    let whole = whole.iter().sum::<u64>();
    let divided = plan.weights_bytes() - whole;
    for devices in [1, 2, 4, 8] {
        let load = plan.load(&plan.layout_within(devices, 0));
        assert_eq!(load.weights_bytes, whole + divided / devices as u64, "{devices}");
        assert_eq!(load.kv_bytes, 32_768 * 376_832 / devices as u64);
    }
    // Beyond 8 devices two of them hold the same key and value head.
    let keys = 92 * 2 * 2 * (5120 + 1) * 1024;
    let load = plan.load(&plan.layout_within(16, 0));
    assert_eq!(load.weights_bytes, whole + (divided - keys) / 16 + keys / 8);
    assert_eq!(load.kv_bytes, 32_768 * 376_832 / 8);
    // Latents are everywhere; a second group has its own sequences.
    let flash = Plan::new(&flash_config(), Demand { batch: 4, ..DEMAND });
    for (devices, sequences) in [(1, 4), (4, 4), (8, 2)] {
        let load = flash.load(&flash.layout_within(devices, 0));
        assert_eq!(load.kv_bytes, sequences * 32_768 * 54_144, "{devices}");
    }
}

#[test]
fn the_longest_context_is_the_last_that_fits() {
    let config = air_config(&json!({}));
    let plan = Plan::new(&config, Demand { batch: 3, ..DEMAND });
    let layout = plan.layout_within(4, 0);
    let usable = 64_000_000_000;
    let longest = plan.max_context(&layout, usable).expect("some context");
    assert!(longest.is_multiple_of(64) && longest < 131_072, "{longest}");
    assert!(plan.load_at(&layout, longest).total() <= usable);
    assert!(plan.load_at(&layout, longest + 1).total() > usable);
    assert_eq!(plan.max_context(&layout, 1 << 40), Some(131_072), "what the model is made for");
    assert_eq!(plan.max_context(&layout, 50_000_000_000), None);
}

/// GLM-4.5 in BF16, one sequence without context: every weight but the embedding table and the
/// experts that are not chosen, counted by hand.
#[test]
fn decode_reads_what_is_active() {
    let config = large_config(&json!({}));
    let plan = Plan::new(&config, Demand { context: 0, ..DEMAND });
    let active = config.parameters().active + 151_552 * 5120;
    let router = 89 * 160 * 5121;
    let layout = plan.layout_within(1, 0);
    let bytes = (2 * (active + router)) as f64;
    assert!((plan.step_bytes(&layout, 1) / bytes - 1.0).abs() < 1e-9);
    let bound = plan.decode_bound(&layout, 1, 3350.0);
    assert!((bound - 3350e9 / bytes).abs() < 1e-6, "{bound}");

    // 8 tokens choose 160 · (1 - 0.95⁸) = 53.85 distinct experts in the mean.
    let experts = 89.0 * 2.0 * 3.0 * 5120.0 * 1536.0;
    let more = plan.step_bytes(&layout, 8) - plan.step_bytes(&layout, 1);
    assert!((more / (experts * (53.852_689 - 8.0)) - 1.0).abs() < 1e-6, "{more}");
    // The cache comes on top, and a prediction layer does not run.
    let long = Plan::new(&config, Demand { context: 1000, mtp: true, ..DEMAND });
    let cache = long.step_bytes(&layout, 2) - plan.step_bytes(&layout, 2);
    assert!((cache - 2.0 * 1000.0 * 376_832.0).abs() < 1e3, "{cache}");
}

#[test]
fn sizes_in_files() {
    let sizes = stored_sizes(&large_config(&json!({})));
    let mtp = 2 * 5_539_962_272 + 2 * 160;
    let main = 2 * 352_797_829_024 + 2 * 89 * 160;
    let copies = 2 * 2 * 151_552 * 5120;
    let found: Vec<_> = sizes.iter().map(|size| (size.prediction, size.bytes)).collect();
    assert_eq!(
        found,
        [
            (Prediction::Whole, main + mtp),
            (Prediction::WithoutCopies, main + mtp - copies),
            (Prediction::Absent, main),
        ]
    );
    let sizes = stored_sizes(&large_config(&fp8()));
    let scales: Vec<_> = sizes.iter().map(|size| size.scale_bytes).collect();
    assert_eq!(scales, [Some(2), Some(4), Some(2), Some(4), Some(2), Some(4)]);
    assert_eq!(sizes.iter().filter(|size| size.bytes < main / 2 + mtp).count(), 6);
}

#[test]
fn absurd_sizes_do_not_overflow() {
    let most = i32::MAX;
    let config = air_config(&json!({
        "hidden_size": most, "intermediate_size": most, "moe_intermediate_size": most,
        "num_attention_heads": most, "num_key_value_heads": most, "n_routed_experts": 65536,
        "head_dim": most, "n_shared_experts": most, "vocab_size": most, "num_hidden_layers": 4096,
        "num_nextn_predict_layers": 4096, "partial_rotary_factor": 0.1
    }));
    let demand =
        Demand { mtp: true, batch: 1 << 20, dtype: DType::F32, matrices: DType::F32, ..DEMAND };
    let plan = Plan::new(&config, demand);
    assert_eq!((plan.weights_bytes(), plan.kv_bytes_per_token()), (u64::MAX, u64::MAX));
    assert_eq!(plan.load(&plan.layout_within(1, 0)).total(), u64::MAX);
    assert_eq!(stored_sizes(&config)[0].bytes, u64::MAX);
}

/// Latents are whole on every device of a group: many long sequences fit in more groups.
#[test]
fn sequences_that_do_not_fit_in_one_group_fit_in_several() {
    let h100 = "H100".parse::<GpuChoice>().expect("known").gpu.expect("named").usable_bytes;
    let demand = Demand { batch: 64, context: 131_072, ..DEMAND };
    let plan = Plan::new(&flash_config(), demand);
    let fits = |layout: &Layout| plan.load(layout).total() <= h100;
    assert!(!fits(&plan.layout_within(8, 0)), "in groups of 4");
    let layout = plan.layout_within(8, h100);
    assert_eq!((layout.tensor, layout.groups, fits(&layout)), (1, 8, true));
    assert!(plan.smallest_layout(h100).expect("fits").devices <= 8);
}

/// The hardware tables of the model card (README of zai-org/GLM-4.5): H100s that each checkpoint
/// needs, in FP8 cache, with MTP and a batch of up to 8, first at all and then with the full context
/// of 131,072 tokens.
#[test]
fn the_model_cards_tables() {
    // What "at all" means the card does not say: a common length here, which changes no cell from
    // 8,192 to 65,536.
    const AT_ALL: usize = 32_768;
    const FULL: usize = 131_072;
    /// Why a cell differs: weights, cache and workspace fit on half as many. But the card's engine
    /// keeps weights and cache within four fifths of the memory (`--mem-fraction-static 0.8` in its
    /// command lines), and with that limit the sizes ask for the card's number, the next power of
    /// two.
    const RESERVE: f64 = 0.8;
    let (bf16, fp8) = (json!({}), fp8());
    let h100 = "H100".parse::<GpuChoice>().expect("known").gpu.expect("named");
    let cells = [
        ("GLM-4.5", large_config(&bf16), AT_ALL, 16, None),
        ("GLM-4.5-FP8", large_config(&fp8), AT_ALL, 8, None),
        ("GLM-4.5-Air", air_config(&bf16), AT_ALL, 4, None),
        ("GLM-4.5-Air-FP8", air_config(&fp8), AT_ALL, 2, None),
        ("GLM-4.7-Flash", flash_config(), AT_ALL, 1, None),
        ("GLM-4.5", large_config(&bf16), FULL, 32, Some((16, RESERVE))),
        ("GLM-4.5-FP8", large_config(&fp8), FULL, 16, Some((8, RESERVE))),
        ("GLM-4.5-Air", air_config(&bf16), FULL, 8, Some((4, RESERVE))),
        ("GLM-4.5-Air-FP8", air_config(&fp8), FULL, 4, None),
        ("GLM-4.7-Flash", flash_config(), FULL, 2, None),
    ];
    for (name, config, context, card, differs) in cells {
        let demand = Demand { kv: KvFormat::Fp8, mtp: true, context, batch: 8, ..DEMAND };
        let plan = Plan::new(&config, demand);
        let usable = h100.usable_bytes;
        let found = plan.smallest_layout(usable).expect("fits on some number").devices;
        let Some((wanted, share)) = differs else {
            assert_eq!(found, card, "{name} at {context}");
            continue;
        };
        assert_eq!(found, wanted, "{name} at {context}");
        let within = |layout: &Layout| {
            let load = plan.load(layout);
            (load.weights_bytes + load.kv_bytes) as f64 <= share * usable as f64
        };
        let mut layouts = plan.layouts();
        layouts.retain(|layout| layout.devices.is_power_of_two());
        // The card's engine divides all of them over the heads.
        layouts.dedup_by_key(|layout| layout.devices);
        let reserved = layouts.iter().find(|layout| within(layout)).expect("fits");
        assert_eq!(reserved.devices, card, "{name} at {context}, with a reserve");
    }
}

/// A step reads what `step_bytes` says, and multiplies each row with the weights that are active.
#[test]
fn a_step_reads_and_multiplies_what_the_weights_say() {
    for (config, heads) in [(air_config(&json!({})), 96 * 2 * 128), (flash_config(), 20 * 1088)] {
        let plan = Plan::new(&config, Demand { context: 1000, ..DEMAND });
        let layout = plan.layout_within(1, u64::MAX);
        for batch in [1, 16] {
            let work = plan.step_work(&StepLoad::decode(batch, 1000.0));
            let bytes = work.weight_bytes + work.kv_bytes;
            let wanted = plan.step_bytes(&layout, batch);
            assert!((bytes / wanted - 1.0).abs() < 1e-9, "{bytes} and {wanted}");
        }
        // Without attention to what is cached, two operations for each active weight and the head;
        // norms and biases are no matrices.
        let one = plan.step_work(&StepLoad { rows: 1.0, sampled: 1.0, ..StepLoad::default() });
        let head = config.vocab_size() * plan.skeleton.hidden_size;
        let weights = 2.0 * (config.parameters().active as f64 + head as f64);
        assert!((one.flops / weights - 1.0).abs() < 1e-3, "{} and {weights}", one.flops);
        let attended = plan.step_work(&StepLoad::decode(1, 1000.0)).flops - one.flops;
        let layers = plan.skeleton.num_hidden_layers;
        assert_eq!(attended.round(), (2 * heads * layers * 1000) as f64);
    }
}

#[test]
fn a_chunk_attends_to_what_comes_before_each_row() {
    let load = StepLoad::prefill(3, 10);
    assert_eq!((load.cached, load.attended), (13.0, 11.0 + 12.0 + 13.0));
}
