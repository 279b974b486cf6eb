//! Checkpoints to be changed, written and loaded.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{bf16, f16};
use glm_backends::device::OpenDevice;
use glm_runtime::load::ModelFiles;
use glm_runtime::{DtypeChoice, Engine, EngineConfig, EngineError, TensorRecord};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::oracle;

/// The folder of the built-in model.
pub(crate) const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/assets/glm-tiny");
/// A prompt of the built-in model.
pub(crate) const PROMPT: [u32; 9] = [1990, 1992, 1995, 1604, 0, 1996, 2009, 373, 399];

/// A tensor as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn new(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Stored { dtype, shape: shape.to_vec(), bytes }
    }

    /// `values` rounded to `dtype`: BF16, F16 or F32.
    pub(crate) fn of(dtype: Dtype, shape: &[usize], values: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            other => panic!("no values in {other:?}"),
        };
        Stored::new(dtype, shape, bytes)
    }

    /// The values of a BF16, F16 or F32 tensor.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter();
        match self.dtype {
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F32 => {
                self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            other => panic!("no values in {other:?}"),
        }
    }
}

/// A checkpoint in memory.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Stored>,
    /// Files that the tensors are dealt to in turn.
    pub(crate) shards: usize,
    /// Tokenizer, template and so on, by name.
    others: Vec<(&'static str, Vec<u8>)>,
}

impl Checkpoint {
    /// The built-in model.
    pub(crate) fn built_in() -> Self {
        Self::open(Path::new(BUILT_IN))
    }

    /// The checkpoint in `folder`.
    pub(crate) fn open(folder: &Path) -> Self {
        let read = |name: &str| std::fs::read(folder.join(name));
        let others = [
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "generation_config.json",
        ];
        let config = read("config.json").expect("config.json");
        let mut tensors = BTreeMap::new();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            if !name.starts_with("model") || !name.ends_with(".safetensors") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("a shard");
            for (name, view) in SafeTensors::deserialize(&bytes).expect("safetensors").iter() {
                let stored = Stored::new(view.dtype(), view.shape(), view.data().to_vec());
                tensors.insert(name.to_owned(), stored);
            }
        }
        Checkpoint {
            config: serde_json::from_slice(&config).expect("config.json"),
            tensors,
            shards: 1,
            others: others.into_iter().filter_map(|name| Some((name, read(name).ok()?))).collect(),
        }
    }

    /// Writes the model, with tensors dealt to the shards in turn.
    pub(crate) fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect(name);
        };
        for (name, bytes) in &self.others {
            write(name, bytes);
        }
        write("config.json", self.config.to_string().as_bytes());
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
            write("model.safetensors.index.json", index.as_bytes());
        }
        folder
    }

    /// Loads it in f32 on the CPU.
    pub(crate) fn load(&self) -> Result<Engine, EngineError> {
        let device = oracle::device("cpu").expect("the CPU");
        let config = EngineConfig { dtype: DtypeChoice::F32, ..EngineConfig::default() };
        self.load_on(&device, &config)
    }

    /// Loads it.
    pub(crate) fn load_on(
        &self,
        device: &OpenDevice,
        config: &EngineConfig,
    ) -> Result<Engine, EngineError> {
        let folder = self.write();
        let files = ModelFiles::open(folder.path()).expect("model folder");
        Engine::load(files, device, config, &mut |_| ())
    }

    /// Logits of the built-in model's prompt, in f32 on the CPU.
    pub(crate) fn logits(&self) -> Vec<(String, TensorRecord)> {
        self.load().expect("load").trace_forward(&PROMPT, false).expect("forward")
    }
}
