//! `glm plan`: what a model needs of a machine. The arithmetic is in models.

use anyhow::{Result, ensure};
use clap::error::ErrorKind;
use glm_backends::kv::KvFormat;
use glm_models::config::Config;
use glm_models::inventory::Part;
use glm_models::plan::{self, DType, Demand, ExpertSplit, Gpu, Layout, Load, Plan, Prediction};
use glm_models::weights::Quantise;
use glm_runtime::EngineConfig;
use glm_runtime::engine::MAX_SCORES;

use super::Outcome;
use crate::args::{KvDtype, PlanArgs};
use crate::model::Sizes;
use crate::ui;

mod json;
mod text;

/// Tokens of a sequence where `--context` does not say.
const CONTEXT: usize = 32_768;

/// Prints sizes, and whether and how fast the model runs on the GPUs that were named.
pub(crate) fn plan(args: &PlanArgs) -> Result<Outcome> {
    let machine = Machine::read(args)?;
    let sizes = Sizes::read(args.model.as_deref(), &args.source)?;
    let demand = demand(args, &sizes.config)?;
    let report = Report::new(sizes, demand, machine);
    ui::output(&if args.json { json::object(&report) } else { text::page(&report) })?;
    Ok(Outcome::Done)
}

/// The GPUs that were named.
#[derive(Debug, Clone, Copy)]
struct Machine {
    gpu: Gpu,
    /// As many as are needed where it is not said.
    count: Option<usize>,
}

impl Machine {
    fn read(args: &PlanArgs) -> Result<Option<Self>> {
        let (count, known) = args.gpu.map_or((None, None), |choice| (choice.count, choice.gpu));
        let gpu = match (known, args.gpu_memory) {
            (Some(gpu), None) => gpu,
            (_, Some(gigabytes)) => {
                Gpu::custom(gigabytes, known.and_then(|g| g.bandwidth_gb_per_s))
            }
            (None, None) if args.gpu.is_some() => {
                return Err(usage("--gpu gives a number alone: --gpu-memory has to say of what"));
            }
            (None, None) if args.bandwidth.is_some() => {
                return Err(usage("--bandwidth says nothing without --gpu or --gpu-memory"));
            }
            (None, None) => return Ok(None),
        };
        let bandwidth_gb_per_s = args.bandwidth.or(gpu.bandwidth_gb_per_s);
        Ok(Some(Self { gpu: Gpu { bandwidth_gb_per_s, ..gpu }, count }))
    }
}

fn usage(text: &str) -> anyhow::Error {
    crate::resolve::usage("plan", ErrorKind::MissingRequiredArgument, text)
}

fn demand(args: &PlanArgs, config: &Config) -> Result<Demand> {
    let limit = config.max_position_embeddings();
    let context = args.context.unwrap_or(CONTEXT.min(limit));
    ensure!(context <= limit, "context is {context}, wanted at most the model's {limit} tokens");
    let stored = match config.dtype() {
        Some("float16") => DType::F16,
        Some("float32") => DType::F32,
        _ => DType::BF16,
    };
    let dtype = args.dtype.dtype().unwrap_or(stored);
    Ok(Demand {
        dtype,
        matrices: dtype,
        quantise: args.quant.quantise(),
        kv: match args.kv_dtype {
            KvDtype::Auto => dtype.into(),
            KvDtype::Bf16 => DType::BF16.into(),
            KvDtype::F16 => DType::F16.into(),
            KvDtype::F32 => DType::F32.into(),
            KvDtype::Fp8 => KvFormat::Fp8,
        },
        mtp: args.mtp,
        context,
        batch: args.batch,
        prefill_chunk: EngineConfig::default().prefill_chunk,
        max_scores: MAX_SCORES,
    })
}

/// Everything that is printed.
#[derive(Debug)]
struct Report {
    sizes: Sizes,
    plan: Plan,
    kv_dtype: &'static str,
    /// The same weights in other number formats, the asked one among them.
    formats: Vec<(&'static str, Plan)>,
    /// On the GPUs that were named.
    verdict: Option<Verdict>,
    /// On GPUs that many have, where none were named.
    table: Vec<Verdict>,
}

impl Report {
    fn new(sizes: Sizes, demand: Demand, machine: Option<Machine>) -> Self {
        let plan = Plan::new(&sizes.config, demand);
        let table = match machine {
            Some(_) => Vec::new(),
            None => {
                let machines = plan::common().map(|gpu| Machine { gpu, count: None });
                machines.map(|machine| Verdict::new(&plan, machine)).collect()
            }
        };
        Self {
            kv_dtype: demand.kv.name(),
            formats: formats(&sizes.config, demand),
            verdict: machine.map(|machine| Verdict::new(&plan, machine)),
            table,
            sizes,
            plan,
        }
    }

    /// What the weights are kept in besides the dtype.
    fn quantization(&self) -> &'static str {
        let asked = self.plan.demand().quantise == Quantise::Fp8;
        match self.sizes.config.quantization().is_some() || asked {
            true => "fp8",
            false => "none",
        }
    }

    /// What the list of the shards says compared with what config.json leads to expect.
    fn index_says(&self) -> Option<String> {
        let found = self.sizes.index_bytes?;
        let expected = plan::stored_sizes(&self.sizes.config);
        let Some(size) = expected.iter().find(|size| size.bytes == found) else {
            let wanted = expected[0].bytes;
            let (more, word) = match found >= wanted {
                true => (found - wanted, "more"),
                false => (wanted - found, "less"),
            };
            return Some(format!(
                "the list of the shards says {}, {} {word} than config.json leads to expect",
                ui::decimal_bytes(found),
                ui::decimal_bytes(more)
            ));
        };
        Some(match size.prediction {
            Prediction::Whole if size.bytes == expected[0].bytes => {
                "the list of the shards agrees".to_owned()
            }
            Prediction::Whole => {
                format!("the list of the shards says {}: scales in f32", ui::decimal_bytes(found))
            }
            Prediction::WithoutCopies => format!(
                "the list of the shards says {}: the prediction layer comes without copies of \
                 embedding and head",
                ui::decimal_bytes(found)
            ),
            Prediction::Absent => format!(
                "the list of the shards says {}: there is no prediction layer",
                ui::decimal_bytes(found)
            ),
        })
    }
}

/// The formats that the weights could be kept in. What is stored in FP8 stays FP8.
fn formats(config: &Config, demand: Demand) -> Vec<(&'static str, Plan)> {
    let of = |name, dtype, quantise| {
        (name, Plan::new(config, Demand { dtype, matrices: dtype, quantise, ..demand }))
    };
    match config.quantization() {
        Some(_) => {
            vec![of("fp8", DType::BF16, Quantise::No), of("fp8_f32", DType::F32, Quantise::No)]
        }
        None => vec![
            of("bf16", DType::BF16, Quantise::No),
            of("f16", DType::F16, Quantise::No),
            of("f32", DType::F32, Quantise::No),
            of("fp8", DType::BF16, Quantise::Fp8),
        ],
    }
}

/// How the model does on GPUs of one kind.
#[derive(Debug)]
struct Verdict {
    machine: Machine,
    /// Whether it fits on those that are there.
    fits: bool,
    /// The fewest that it fits on; none where it fits on no number that it divides over.
    devices_needed: Option<usize>,
    /// What the rest is computed for: all devices that are there or, where no number was given, as
    /// many as are needed.
    divided: Option<Divided>,
}

#[derive(Debug)]
struct Divided {
    layout: Layout,
    load: Load,
    /// None where it does not fit.
    max_context: Option<usize>,
    /// Tokens per second of one sequence and of all; none without a bandwidth, and none where it
    /// does not fit.
    decode_bound: Option<[f64; 2]>,
}

impl Verdict {
    fn new(plan: &Plan, machine: Machine) -> Self {
        let Machine { gpu, count } = machine;
        let smallest = plan.smallest_layout(gpu.usable_bytes);
        let layout = count.map(|count| plan.layout_within(count, gpu.usable_bytes)).or(smallest);
        let fits = layout.is_some_and(|layout| plan.load(&layout).total() <= gpu.usable_bytes);
        let divided = layout.map(|layout| Divided {
            layout,
            load: plan.load(&layout),
            max_context: plan.max_context(&layout, gpu.usable_bytes),
            decode_bound: gpu.bandwidth_gb_per_s.filter(|_| fits).map(|bandwidth| {
                [1, plan.demand().batch].map(|batch| plan.decode_bound(&layout, batch, bandwidth))
            }),
        });
        Self { machine, fits, devices_needed: smallest.map(|layout| layout.devices), divided }
    }
}

/// A part's name in JSON.
fn key(part: Part) -> &'static str {
    match part {
        Part::Embedding => "embedding",
        Part::Head => "head",
        Part::Norm => "norms",
        Part::Attention => "attention",
        Part::DenseMlp => "dense_mlp",
        Part::Router => "router",
        Part::RoutedExperts => "routed_experts",
        Part::SharedExpert => "shared_experts",
        Part::Prediction => "prediction",
    }
}
