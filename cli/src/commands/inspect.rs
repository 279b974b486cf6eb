//! `glm inspect`: size and shape of a model.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use glm_models::config::{Config, Parameters};
use glm_models::plan::{DType, Demand, Plan};
use glm_models::weights::{TensorInfo, TensorSource};
use glm_runtime::load::Checkpoint;
use glm_runtime::{DtypeChoice, QuantChoice};
use serde_json::{Value, json};

use super::{Outcome, golden, logits, ops};
use crate::args::{EngineArgs, InspectArgs};
use crate::model::ModelChoice;
use crate::ui;

/// Prints what the headers say, or runs the forward pass that was asked for.
pub(crate) fn inspect(args: &InspectArgs) -> Result<Outcome> {
    if args.model.as_deref() == Some("ops") && !Path::new("ops").exists() {
        return ops::show(args);
    }
    let model = ModelChoice::new(args.model.as_deref())?;
    model.note_unused(&args.source);
    if let (Some(ids), Some(out)) = (&args.logits, &args.out) {
        return logits::forward(args, &model, ids, out);
    }
    if let Some(recorded) = &args.golden {
        return golden::compare(args, &model, recorded);
    }
    let (config, checkpoint) = model.describe(&args.source, args.engine.load_format)?;
    let all = checkpoint.as_ref().map(tensors);
    let facts = Facts::gather(&config, all.as_deref(), &args.engine);
    let tensors = args.tensors.then(|| {
        let name = model.name();
        all.with_context(|| {
            format!("the weights of {name} are not here; `glm run {name}` fetches them")
        })
    });
    let tensors = tensors.transpose()?;
    if args.json {
        let mut all = facts.as_json(&model);
        if let Some(tensors) = tensors {
            let entry = |(name, info): (String, TensorInfo)| {
                let dtype = info.dtype.to_string();
                json!({"name": name, "dtype": dtype, "shape": info.shape})
            };
            all["tensors"] = tensors.into_iter().map(entry).collect();
        }
        ui::output(&format!("{all:#}\n"))?;
    } else if let Some(tensors) = tensors {
        let row = |(name, info): (String, TensorInfo)| {
            vec![name, info.dtype.to_string(), format!("{:?}", info.shape)]
        };
        ui::output(&ui::table(
            &["TENSOR", "DTYPE", "SHAPE"],
            &tensors.into_iter().map(row).collect::<Vec<_>>(),
        ))?;
    } else {
        ui::output(&facts.as_text(&model))?;
    }
    Ok(Outcome::Done)
}

fn tensors(checkpoint: &Checkpoint) -> Vec<(String, TensorInfo)> {
    let named = |name: String| checkpoint.info(&name).map(|info| (name, info));
    checkpoint.names().into_iter().filter_map(named).collect()
}

/// What config.json and the headers of the weight files say.
struct Facts<'a> {
    config: &'a Config,
    /// Tensors and values by stored number format; none where the weights are not here.
    stored: BTreeMap<String, (usize, usize)>,
    /// The number format to compute in.
    dtype: DType,
    /// What weights become while they are loaded.
    quant: QuantChoice,
}

impl<'a> Facts<'a> {
    fn gather(
        config: &'a Config,
        tensors: Option<&[(String, TensorInfo)]>,
        engine: &EngineArgs,
    ) -> Self {
        let mut stored: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (_, info) in tensors.into_iter().flatten() {
            let (tensors, values) = stored.entry(info.dtype.to_string()).or_default();
            *tensors += 1;
            *values += info.shape.iter().product::<usize>();
        }
        // FP8 and the router's f32 are not what a model computes in.
        let floats =
            stored.iter().filter(|(name, _)| ["BF16", "F16", "F32"].contains(&name.as_str()));
        let most = floats.max_by_key(|(_, (_, values))| *values);
        let dtype = match (engine.dtype, most.map(|(name, _)| name.as_str())) {
            (DtypeChoice::F32, _) | (DtypeChoice::Auto, Some("F32")) => DType::F32,
            (DtypeChoice::F16, _) | (DtypeChoice::Auto, Some("F16")) => DType::F16,
            (DtypeChoice::Bf16 | DtypeChoice::Auto, _) => DType::BF16,
        };
        Self { config, stored, dtype, quant: engine.quant }
    }

    fn kv_bytes_per_token(&self) -> u64 {
        self.config.kv_bytes_per_token(self.dtype.into())
    }

    /// Weights of the main model; prediction (MTP) layers are not loaded.
    fn memory_to_load(&self) -> u64 {
        let demand = Demand {
            dtype: self.dtype,
            matrices: self.dtype,
            quantise: self.quant.quantise(),
            kv: self.dtype.into(),
            mtp: false,
            context: 1,
            batch: 1,
            prefill_chunk: 1,
            max_scores: 1,
        };
        Plan::new(self.config, demand).weights_bytes()
    }

    /// What the weights are kept in.
    fn format(&self) -> String {
        let in_fp8 = self.config.quantization().is_some() || self.quant == QuantChoice::Fp8;
        match in_fp8 {
            true => format!("fp8 and {}", self.dtype.name()),
            false => self.dtype.name().to_owned(),
        }
    }

    fn as_text(&self, model: &ModelChoice) -> String {
        let parameters = self.config.parameters();
        let (layers, dense) = (self.config.num_hidden_layers(), self.config.dense_layers());
        let context = self.config.max_position_embeddings() as u64;
        let (name, kv) = (self.dtype.name(), self.kv_bytes_per_token());
        let stored = self.stored.iter().map(|(dtype, (tensors, values))| {
            format!("{dtype} in {tensors} tensors, {} values", ui::count(*values as u64))
        });
        let stored = match self.stored.is_empty() {
            true => "the weights are not on this machine".to_owned(),
            false => stored.collect::<Vec<_>>().join("; "),
        };
        let lines = [
            ("model", model.name()),
            ("family", self.config.model_type().to_owned()),
            (
                "parameters",
                format!(
                    "{} total, {} active per token; {} more in prediction layers, not loaded",
                    ui::count(parameters.total),
                    ui::count(parameters.active),
                    ui::count(parameters.mtp),
                ),
            ),
            ("layers", format!("{layers}, {dense} dense and {} with experts", layers - dense)),
            ("dtypes", stored),
            ("vocabulary", format!("{} rows", self.config.vocab_size())),
            ("context", format!("{context} tokens")),
            (
                "KV cache",
                format!(
                    "{} per token, {} for the whole context, in {name}",
                    ui::bytes(kv),
                    ui::bytes(kv * context)
                ),
            ),
            (
                "memory to load",
                format!("{} in {}", ui::bytes(self.memory_to_load()), self.format()),
            ),
        ];
        lines.map(|(what, value)| format!("{what:16}{value}\n")).concat()
    }

    fn as_json(&self, model: &ModelChoice) -> Value {
        let (layers, dense) = (self.config.num_hidden_layers(), self.config.dense_layers());
        let stored: BTreeMap<&String, Value> = self
            .stored
            .iter()
            .map(|(dtype, (tensors, values))| {
                (dtype, json!({"tensors": tensors, "values": values}))
            })
            .collect();
        let Parameters { total, active, mtp } = self.config.parameters();
        json!({
            "model": model.name(),
            "family": self.config.model_type(),
            "parameters": {"total": total, "active": active, "mtp": mtp},
            "layers": layers,
            "dense_layers": dense,
            "dtypes": stored,
            "vocab_size": self.config.vocab_size(),
            "context_length": self.config.max_position_embeddings(),
            "dtype": self.dtype.name(),
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "memory_to_load_bytes": self.memory_to_load(),
        })
    }
}
