//! Peak of anonymous host memory while a sharded checkpoint of 2 GB loads on the CPU, against
//! what it may be: the weights in the type that they are kept in, the largest tensor, and 10 %.
//!
//! `cargo bench-load`; the checkpoint is written to a temporary folder first. Pages of the mapped
//! files do not count: the system takes them back when it needs them. Exit code 1 when a load
//! takes more than it may.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use glm_backends::device;
use glm_models::config::Config;
use glm_models::inventory::{Form, Part, TensorEntry};
use glm_runtime::load::ModelFiles;
use glm_runtime::{Engine, EngineConfig};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::json;

/// `--dtype` and `--quant` of each load.
const LOADS: [[&str; 2]; 3] = [["bf16", "none"], ["f32", "none"], ["bf16", "fp8"]];
const SHARDS: usize = 5;
/// On top of weights and largest tensor.
const MARGIN: f64 = 0.1;
/// Between two looks at the memory. Copying the largest tensor takes several of these.
const SAMPLING: Duration = Duration::from_millis(1);

/// GLM-4.5-Air in 8 of its 46 layers, a quarter as wide, with all its experts.
const CONFIG: &str = r#"{
    "model_type": "glm4_moe", "torch_dtype": "bfloat16", "vocab_size": 16384, "hidden_size": 1024,
    "num_hidden_layers": 8, "first_k_dense_replace": 1, "num_attention_heads": 24,
    "num_key_value_heads": 2, "head_dim": 128, "attention_bias": true, "use_qk_norm": false,
    "partial_rotary_factor": 0.5, "intermediate_size": 2736, "moe_intermediate_size": 352,
    "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "num_nextn_predict_layers": 0, "eos_token_id": 0
}"#;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if anonymous_bytes().is_none() {
        println!("skipped: no RssAnon in /proc/self/status");
        return Ok(ExitCode::SUCCESS);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, folder, dtype, quant] = &arguments[..]
        && flag == "--load"
    {
        return load(Path::new(folder), dtype, quant);
    }
    let folder = tempfile::tempdir()?;
    write(folder.path())?;
    println!(
        "{:8} {:6} {:>11} {:>11} {:>11} {:>11} {:>8}",
        "dtype", "quant", "weights", "largest", "allowed", "peak", "seconds"
    );
    let mut code = ExitCode::SUCCESS;
    for [dtype, quant] in LOADS {
        // In a process of its own: what one load leaves with the allocator is not the next one's.
        let mut command = Command::new(std::env::current_exe()?);
        let status = command.arg("--load").arg(folder.path()).args([dtype, quant]).status()?;
        if !status.success() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Loads the checkpoint and prints its row of the table.
fn load(folder: &Path, dtype: &str, quant: &str) -> Result<ExitCode, Box<dyn Error>> {
    let resident = |tensor: &Tensor| tensor.resident_bytes(dtype, quant);
    let tensors = tensors()?;
    let weights: usize = tensors.iter().map(resident).sum();
    let largest = tensors.iter().map(resident).max().unwrap_or_default();
    let allowed = (weights + largest) as f64 * (1.0 + MARGIN);

    let device = device::open(&"cpu".parse()?)?;
    let config = EngineConfig {
        dtype: dtype.parse()?,
        quant: quant.parse()?,
        max_context: Some(4096),
        ..EngineConfig::default()
    };
    let loaded = AtomicBool::new(false);
    let started = Instant::now();
    let (engine, peak) = thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !loaded.load(Ordering::Relaxed) {
                peak = peak.max(anonymous_bytes().unwrap_or_default());
                thread::sleep(SAMPLING);
            }
            peak
        });
        let files = ModelFiles::open(folder);
        let engine = files.map(|files| Engine::load(files, &device, &config, &mut |_| ()));
        loaded.store(true, Ordering::Relaxed);
        (engine, peak.join())
    });
    engine??;
    let peak = peak.map_err(|_| "the sampling thread panicked")?;
    let seconds = started.elapsed().as_secs_f64();
    let megabytes = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
    let fits = peak as f64 <= allowed;
    println!(
        "{dtype:8} {quant:6} {:>11} {:>11} {:>11} {:>11} {seconds:>8.1}{}",
        megabytes(weights as f64),
        megabytes(largest as f64),
        megabytes(allowed),
        megabytes(peak as f64),
        if fits { "" } else { "  more than allowed" },
    );
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Anonymous bytes of this process in memory; `None` where the system does not say.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Writes the model folder, with tensors dealt to the shards in turn.
fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let tensors = tensors()?;
    let bytes: usize = tensors.iter().map(|tensor| tensor.data_len()).sum();
    println!("a glm4_moe checkpoint of {:.2} GB in {SHARDS} shards", bytes as f64 / 1e9);
    std::fs::write(folder.join("config.json"), CONFIG)?;
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/assets/glm-tiny/tokenizer.json");
    std::fs::copy(tokenizer, folder.join("tokenizer.json"))?;
    let name = |shard: usize| format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
    let mut weight_map = serde_json::Map::new();
    for shard in 0..SHARDS {
        let mine = tensors.iter().skip(shard).step_by(SHARDS);
        weight_map.extend(mine.clone().map(|tensor| (tensor.0.name.clone(), name(shard).into())));
        let views = mine.map(|tensor| (tensor.0.name.as_str(), tensor));
        serialize_to_file(views, None, &folder.join(name(shard)))?;
    }
    let index = json!({ "weight_map": weight_map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index)?;
    Ok(())
}

/// All tensors of the checkpoint.
fn tensors() -> Result<Vec<Tensor>, Box<dyn Error>> {
    let config = Config::from_json(CONFIG, Path::new("config.json"))?;
    Ok(config.inventory().into_iter().map(Tensor).collect())
}

/// A tensor of seeded random values, made when it is written.
struct Tensor(TensorEntry);

impl Tensor {
    /// Bytes that it takes once it is loaded with `--dtype` and `--quant`.
    fn resident_bytes(&self, dtype: &str, quant: &str) -> usize {
        let TensorEntry { shape, part, form, .. } = &self.0;
        let elements: usize = shape.iter().product();
        let element = if dtype == "f32" { 4 } else { 2 };
        match (part, form) {
            // The router computes in f32.
            (Part::Router, _) | (_, Form::Wide) => 4 * elements,
            // A code each, and an f32 scale a row. The head is left as it is.
            (part, Form::Matrix) if quant == "fp8" && *part != Part::Head => {
                elements + 4 * shape[0]
            }
            _ => element * elements,
        }
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        if self.0.form == Form::Wide { Dtype::F32 } else { Dtype::BF16 }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Signs and mantissas at random, exponents of 2⁻⁷: finite in both types.
        let [keep, exponent] = match self.dtype() {
            Dtype::F32 => [0x807f_ffff_807f_ffff, 0x3c00_0000_3c00_0000],
            _ => [0x807f_807f_807f_807f, 0x3c00_3c00_3c00_3c00u64],
        };
        let mut state = self.0.name.bytes().fold(0x9e37_79b9_7f4a_7c15u64, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let words = std::iter::repeat_with(|| {
            // xorshift64 (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & keep | exponent).to_le_bytes()
        });
        let length = self.data_len();
        let mut bytes: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
        bytes.truncate(length);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.0.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}
