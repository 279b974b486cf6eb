//! The built-in model's weights in other layouts: the same numbers, or an error that says what is
//! wrong. Nothing but this repository is needed.

use std::ops::ControlFlow;
use std::path::Path;

use glm_runtime::{
    DtypeChoice, EngineConfig, EngineError, Failure, Request, SamplingParams, TensorRecord,
};
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::support::checkpoint::{BUILT_IN, Checkpoint, PROMPT, Stored};
use crate::support::oracle::{self, floats, relative_l2};

const EXPERTS: usize = 16;

#[test]
fn shards_with_any_names_hold_the_same_numbers() {
    let mut model = Checkpoint::built_in();
    model.shards = 3;
    assert_eq!(floats(&model.logits(), "logits"), floats(&original(), "logits"));
}

#[test]
fn fused_experts_hold_the_same_numbers() {
    let mut model = Checkpoint::built_in();
    for layer in 1..4 {
        let experts = format!("model.layers.{layer}.mlp.experts");
        let mut take = |expert: usize, projection: &str| {
            let name = format!("{experts}.{expert}.{projection}.weight");
            model.tensors.remove(&name).unwrap_or_else(|| panic!("{name}"))
        };
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        for expert in 0..EXPERTS {
            gate_up.extend(take(expert, "gate_proj").bytes);
            gate_up.extend(take(expert, "up_proj").bytes);
            down.extend(take(expert, "down_proj").bytes);
        }
        let tensor = |shape: [usize; 3], bytes| Stored::new(Dtype::BF16, &shape, bytes);
        let fused = [("gate_up_proj", [EXPERTS, 128, 128], gate_up)];
        for (name, shape, bytes) in
            fused.into_iter().chain([("down_proj", [EXPERTS, 128, 64], down)])
        {
            model.tensors.insert(format!("{experts}.{name}"), tensor(shape, bytes));
        }
    }
    assert_eq!(floats(&model.logits(), "logits"), floats(&original(), "logits"));
}

#[test]
fn f32_and_f16_files_hold_the_same_numbers() {
    // Weights of each dtype have kernels of their own, with sums in other orders and, with AMX, of
    // activations of 16 bits.
    for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::F16, 2e-3)] {
        let mut model = Checkpoint::built_in();
        for tensor in model.tensors.values_mut().filter(|tensor| tensor.dtype == Dtype::BF16) {
            *tensor = Stored::of(dtype, &tensor.shape, &tensor.floats());
        }
        let distance =
            relative_l2(floats(&model.logits(), "logits"), floats(&original(), "logits"));
        assert!(distance <= tolerance, "{dtype:?}: {distance:.2e}");
    }
}

#[test]
fn a_tied_head_is_the_embedding_unless_one_is_stored() {
    let mut model = Checkpoint::built_in();
    model.config["tie_word_embeddings"] = json!(true);
    assert_eq!(floats(&model.logits(), "logits"), floats(&original(), "logits"));

    let head = model.tensors.remove("lm_head.weight").expect("a head");
    let tied = model.logits();
    model.config["tie_word_embeddings"] = json!(false);
    let embedding = model.tensors["model.embed_tokens.weight"].clone();
    assert_eq!(embedding.shape, head.shape);
    model.tensors.insert("lm_head.weight".into(), embedding);
    assert_eq!(floats(&tied, "logits"), floats(&model.logits(), "logits"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let norm = "model.layers.2.input_layernorm.weight";
    let refused = |change: &dyn Fn(&mut Checkpoint), message: &str| {
        let mut model = Checkpoint::built_in();
        change(&mut model);
        assert_eq!(model.load().expect_err(message).to_string(), message);
    };
    refused(
        &|model| drop(model.tensors.remove(norm)),
        &format!("tensor `{norm}` is missing from the checkpoint"),
    );
    refused(
        &|model| {
            let tensor = model.tensors.get_mut(norm).expect("a norm");
            tensor.bytes.truncate(2 * 64);
            tensor.shape = vec![64];
        },
        &format!("tensor `{norm}`: shape [64] in the file, [128] by config.json"),
    );
    refused(
        &|model| {
            let stored = Stored::new(Dtype::I16, &[128], vec![0; 256]);
            model.tensors.insert(norm.into(), stored);
        },
        &format!("tensor `{norm}`: dtype I16 in the file, wanted BF16, F16 or F32"),
    );
    refused(
        &|model| {
            let stored = Stored::new(Dtype::BF16, &[1], vec![0; 2]);
            model.tensors.insert("model.layers.9.extra".into(), stored);
        },
        "the checkpoint has 1 tensor more than config.json calls for: `model.layers.9.extra`",
    );
}

#[test]
fn a_context_of_one_token_has_no_room_for_an_answer() {
    let device = oracle::device("cpu").expect("the CPU");
    let engine = oracle::engine(Path::new(BUILT_IN), &device, DtypeChoice::F32);
    let error = engine.generate(&request(vec![5; 2048]), &mut |_| ControlFlow::Continue(()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "the prompt has 2048 tokens, wanted at most 2047: the context holds no more"
    );
    let error = engine.generate(&request(vec![5, 2048]), &mut |_| ControlFlow::Continue(()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "token id 2048 at position 1 is out of range: the vocabulary has 2048"
    );
    let error = engine.generate(&request(Vec::new()), &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("the prompt is empty"));
    // None of them took the engine down, and the last token of the context can be generated.
    let answer = engine.generate(&request(vec![5; 2047]), &mut |_| ControlFlow::Continue(()));
    assert_eq!(answer.expect("an answer").token_ids.len(), 1);
}

#[test]
fn damaged_weights_are_said_instead_of_sampled() {
    let mut model = Checkpoint::built_in();
    let norm = model.tensors.get_mut("model.norm.weight").expect("a norm");
    norm.bytes[..2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    let device = oracle::device("cpu").expect("the CPU");
    let config =
        EngineConfig { dtype: DtypeChoice::F32, allow_nan: true, ..EngineConfig::default() };
    let engine = model.load_on(&device, &config).expect("load");
    for temperature in [0.0, 1.0] {
        let mut request = request(PROMPT.to_vec());
        request.sampling.temperature = temperature;
        let error = engine.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, EngineError::Failed(Failure::NotFinite { .. })), "{error}");
    }
}

fn request(prompt: Vec<u32>) -> Request {
    Request { ignore_eos: true, ..Request::new(prompt, SamplingParams::greedy()) }
}

fn original() -> Vec<(String, TensorRecord)> {
    Checkpoint::built_in().logits()
}
