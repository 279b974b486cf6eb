//! In what dtype a model is kept on a device, and whether the device can hold it.

use burn::tensor::DType;
use glm_backends::device::{BackendKind, Memory, OpenDevice};
use glm_backends::ops;
use glm_models::config::Config;
use glm_models::model::Parts;
use glm_models::plan::{Demand, Plan};
use glm_models::weights::{Matrices, Quantise, StoredDtype};

use crate::config::{EngineConfig, QuantChoice};
use crate::engine::MAX_SCORES;
use crate::error::EngineError;
use crate::load::ModelFiles;

/// Tokens of the cache on a device that does not say how much memory is free.
const UNKNOWN_MEMORY_TOKENS: usize = 1 << 14;

/// The dtype to keep the model in, and a note where it is not the checkpoint's.
pub(crate) fn choose_dtype(
    stored: DType,
    device: &OpenDevice,
    config: &EngineConfig,
) -> Result<(DType, Option<String>), EngineError> {
    match config.dtype.dtype() {
        None => Ok(device.auto_float(stored)),
        Some(dtype) => check_dtype(device, dtype).map(|()| (dtype, None)),
    }
}

/// Refuses a dtype that the device does not compute in.
pub(crate) fn check_dtype(device: &OpenDevice, dtype: DType) -> Result<(), EngineError> {
    if device.supports(dtype) {
        return Ok(());
    }
    let known = [DType::F32, DType::BF16, DType::F16].into_iter();
    let has: Vec<_> = known.filter(|d| device.supports(*d)).map(|d| d.name()).collect();
    Err(EngineError::Dtype { device: device.label(), wanted: dtype.name(), has: has.join(", ") })
}

/// Whether most of the weights are kept in FP8.
pub(crate) fn in_fp8(model: &Config, config: &EngineConfig) -> bool {
    model.quantization().is_some() || config.quant == QuantChoice::Fp8
}

/// Dtype of the embedding: what the checkpoint as a whole is stored in.
pub(crate) fn stored_dtype(files: &ModelFiles) -> DType {
    match files.weights.info("model.embed_tokens.weight").map(|info| info.dtype) {
        Some(StoredDtype::F16) => DType::F16,
        Some(StoredDtype::F32) => DType::F32,
        _ => DType::BF16,
    }
}

/// How matrices that are floats are kept: on the CPU as they are stored, where its kernels widen them.
pub(crate) fn matrices(dtype: DType, device: &OpenDevice, config: &EngineConfig) -> Matrices {
    let widens = !config.reference_ops && ops::widens_weights(&device.device, dtype);
    if widens { Matrices::AsStored } else { Matrices::InDtype }
}

/// The dtype that [`matrices`] leads to for a checkpoint that is `stored` in one.
pub(crate) fn dtype_of_matrices(
    [dtype, stored]: [DType; 2],
    device: &OpenDevice,
    config: &EngineConfig,
) -> DType {
    match matrices(dtype, device, config) {
        Matrices::AsStored => stored,
        Matrices::InDtype => dtype,
    }
}

/// Refuses weights that the device has no kernels for.
pub(crate) fn check_quant(device: &OpenDevice, config: &EngineConfig) -> Result<(), EngineError> {
    match config.quant {
        QuantChoice::Q8 | QuantChoice::Q4 if device.kind != BackendKind::Cpu => {
            Err(EngineError::Config {
                name: "quant",
                found: format!("{} on {}", config.quant, device.label()),
                wanted: "none or fp8: q8 and q4 are for the CPU so far".into(),
            })
        }
        _ => Ok(()),
    }
}

/// Refuses a model whose weights are larger than all the memory of the device, before anything is
/// read.
pub(crate) fn check_memory(
    model: &Config,
    device: &OpenDevice,
    [dtype, stored]: [DType; 2],
    config: &EngineConfig,
) -> Result<(), EngineError> {
    let Some(present) = device.memory().total else { return Ok(()) };
    let weights = |dtype: DType, quantise: Quantise| {
        let demand = Demand {
            dtype,
            matrices: dtype_of_matrices([dtype, stored], device, config),
            quantise,
            kv: dtype.into(),
            mtp: config.parts == Parts::MainAndMtp,
            context: 1,
            batch: 1,
            prefill_chunk: config.prefill_chunk,
            max_scores: MAX_SCORES,
        };
        Plan::new(model, demand).weights_bytes()
    };
    let quantise = config.quant.quantise();
    let needed = weights(dtype, quantise);
    if needed <= present {
        return Ok(());
    }
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let fits =
        |dtype: DType, quantise| device.supports(dtype) && weights(dtype, quantise) <= present;
    Err(EngineError::Memory {
        needed: gigabytes(needed),
        dtype: match in_fp8(model, config) {
            true => format!("FP8 and {}", dtype.name()),
            false => dtype.name().to_owned(),
        },
        device: device.label(),
        present: gigabytes(present),
        hint: if fits(DType::BF16, quantise) {
            ", or --dtype bf16"
        } else if fits(dtype, Quantise::Fp8) {
            ", or --quant fp8"
        } else if fits(DType::BF16, Quantise::Fp8) {
            ", or --quant fp8 --dtype bf16"
        } else {
            ""
        },
    })
}

/// How many pages the cache gets, the sink included: what memory allows, and no more than
/// `max_batch` sequences of `context` tokens can use.
pub(crate) fn cache_pages(
    device: &OpenDevice,
    config: &EngineConfig,
    page_bytes: usize,
    page_size: usize,
    context: usize,
) -> Result<usize, EngineError> {
    // The sink, and of each sequence a page that is begun.
    let useful = 1 + config.max_batch * (context.div_ceil(page_size) + 1);
    let useful =
        config.kv_tokens.map_or(useful, |tokens| useful.min(1 + tokens.div_ceil(page_size)));
    let Memory { total, free } = device.memory();
    let fraction = config.memory_fraction.unwrap_or(0.9);
    let room = match (device.kind, total, free) {
        // The CPU shares its memory with everything else.
        (BackendKind::Cpu, _, Some(free)) => free as f64 * config.memory_fraction.unwrap_or(0.5),
        (_, Some(total), Some(free)) => free as f64 - (1.0 - fraction) * total as f64,
        // What is free is not known: a cache of a fixed size.
        _ => (UNKNOWN_MEMORY_TOKENS / page_size * page_bytes) as f64,
    };
    let pages = (room.max(0.0) as u64 / page_bytes as u64).min(useful as u64) as usize;
    let gigabytes = |bytes: f64| format!("{:.3} GB", bytes.max(0.0) / 1e9);
    if pages < 2 {
        return Err(EngineError::Cache {
            device: device.label(),
            present: gigabytes(room),
            tokens: 2 * page_size,
            needed: gigabytes(2.0 * page_bytes as f64),
            fraction,
        });
    }
    Ok(pages)
}
