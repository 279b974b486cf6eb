//! The built-in model's weights in other layouts: the same numbers, or an error that says what is
//! wrong. Nothing but this repository is needed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use glm_runtime::load::ModelFiles;
use glm_runtime::{
    DtypeChoice, Engine, EngineConfig, EngineError, Request, SamplingParams, TensorRecord,
};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::oracle::{self, floats, relative_l2};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/assets/glm-tiny");
const PROMPT: [u32; 9] = [1990, 1992, 1995, 1604, 0, 1996, 2009, 373, 399];
const EXPERTS: usize = 16;

#[test]
fn shards_with_any_names_hold_the_same_numbers() {
    let mut model = Checkpoint::read();
    model.shards = 3;
    assert_eq!(floats(&model.logits(), "logits"), floats(&original(), "logits"));
}

#[test]
fn fused_experts_hold_the_same_numbers() {
    let mut model = Checkpoint::read();
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
    for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 2e-3)] {
        let mut model = Checkpoint::read();
        for tensor in model.tensors.values_mut().filter(|tensor| tensor.dtype == Dtype::BF16) {
            let values = tensor
                .bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
            tensor.bytes = match dtype {
                Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                _ => values.flat_map(|v| burn::tensor::f16::from_f32(v).to_le_bytes()).collect(),
            };
            tensor.dtype = dtype;
        }
        let distance =
            relative_l2(floats(&model.logits(), "logits"), floats(&original(), "logits"));
        assert!(distance <= tolerance, "{dtype:?}: {distance:.2e}");
    }
}

#[test]
fn a_tied_head_is_the_embedding_unless_one_is_stored() {
    let mut model = Checkpoint::read();
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
        let mut model = Checkpoint::read();
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
    let mut engine = oracle::engine(Path::new(MODEL), &device, DtypeChoice::F32);
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
    let mut model = Checkpoint::read();
    let norm = model.tensors.get_mut("model.norm.weight").expect("a norm");
    norm.bytes[..2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    let mut engine = model.load().expect("load");
    for temperature in [0.0, 1.0] {
        let mut request = request(PROMPT.to_vec());
        request.sampling.temperature = temperature;
        let error = engine.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { .. }), "{error}");
    }
}

fn request(prompt: Vec<u32>) -> Request {
    Request {
        prompt,
        sampling: SamplingParams::greedy(),
        stop_strings: Vec::new(),
        stop_token_ids: Vec::new(),
        max_tokens: None,
        ignore_eos: true,
    }
}

fn original() -> Vec<(String, TensorRecord)> {
    Checkpoint::read().logits()
}

#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Stored { dtype, shape: shape.to_vec(), bytes }
    }
}

/// The built-in model, to be changed and written.
struct Checkpoint {
    config: Value,
    tensors: BTreeMap<String, Stored>,
    shards: usize,
}

impl Checkpoint {
    fn read() -> Self {
        let read = |name: &str| std::fs::read(Path::new(MODEL).join(name)).expect(name);
        let bytes = read("model.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let stored =
            |view: TensorView<'_>| Stored::new(view.dtype(), view.shape(), view.data().to_vec());
        Checkpoint {
            config: serde_json::from_slice(&read("config.json")).expect("config.json"),
            tensors: file.iter().map(|(name, view)| (name.to_owned(), stored(view))).collect(),
            shards: 1,
        }
    }

    /// Writes the model, with tensors dealt to the shards in turn.
    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(Path::new(MODEL).join(name), folder.path().join(name)).expect(name);
        }
        let config = self.config.to_string();
        std::fs::write(folder.path().join("config.json"), config).expect("config.json");
        let file_name = |shard: usize| match self.shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("part {shard}.of-weights.safetensors"),
        };
        let mut weight_map = BTreeMap::new();
        for shard in 0..self.shards {
            let mine = self.tensors.iter().skip(shard).step_by(self.shards);
            let views: Vec<(&String, TensorView<'_>)> = mine
                .map(|(name, tensor)| {
                    weight_map.insert(name.clone(), file_name(shard));
                    let Stored { dtype, shape, bytes } = tensor;
                    (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a view"))
                })
                .collect();
            serialize_to_file(views, None, &folder.path().join(file_name(shard))).expect("write");
        }
        if self.shards > 1 {
            let index = json!({ "weight_map": weight_map }).to_string();
            let path = folder.path().join("model.safetensors.index.json");
            std::fs::write(path, index).expect("index");
        }
        folder
    }

    fn load(&self) -> Result<Engine, EngineError> {
        let folder = self.write();
        let device = oracle::device("cpu").expect("the CPU");
        let files = ModelFiles::open(folder.path()).expect("model folder");
        let config = EngineConfig { dtype: DtypeChoice::F32, ..EngineConfig::default() };
        Engine::load(files, &device, &config, &mut |_| ())
    }

    fn logits(&self) -> Vec<(String, TensorRecord)> {
        self.load().expect("load").trace_forward(&PROMPT, false).expect("forward")
    }
}
