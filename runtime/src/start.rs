//! From files and choices to an engine that runs.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use burn::tensor::DType;
use glm_backends::device::{BackendKind, OpenDevice};
use glm_backends::kv::{KvFormat, KvPool};
use glm_backends::ranks::Rank;
use glm_models::model::{Model, Parts};
use glm_models::plan::{Demand, Plan};
use glm_models::weights::{Format, Loader};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::config::{DraftChoice, EngineConfig, KvDtypeChoice};
use crate::core::{Command, Core, CoreConfig};
use crate::engine::{EngineLimits, MAX_SCORES};
use crate::error::EngineError;
use crate::handoff::Mailbox;
use crate::load::{ModelFiles, WeightSource};
use crate::placement::{
    self, cache_pages, check_dtype, check_memory, check_quant, choose_dtype, dtype_of_matrices,
    in_fp8, stored_dtype,
};
use crate::runner::{Runner, RunnerConfig};
use crate::scheduler::{Limits, Scheduler};
use crate::stats::Stats;

/// Makes the scheduler, at the start and after a panic.
pub(crate) type NewScheduler = Box<dyn Fn() -> Scheduler + Send>;

/// Everything that the engine's thread needs.
pub(crate) struct Loaded {
    pub(crate) files: Arc<ModelFiles>,
    pub(crate) runner: Runner,
    pub(crate) scheduler: NewScheduler,
    pub(crate) core: CoreConfig,
    pub(crate) limits: EngineLimits,
    pub(crate) plan: Plan,
    pub(crate) dtype: DType,
    pub(crate) dtype_note: Option<String>,
}

/// Loads weights and makes room for the cache.
pub(crate) fn load(
    files: ModelFiles,
    device: &OpenDevice,
    config: &EngineConfig,
    report: &dyn Fn(u64),
) -> Result<Loaded, EngineError> {
    let stored = stored_dtype(&files);
    let (dtype, mut dtype_note) = choose_dtype(stored, device, config)?;
    let matrices = dtype_of_matrices([dtype, stored], device, config);
    if matrices != dtype && dtype_note.is_some() {
        let (kept, computed) = (matrices.name(), dtype.name());
        dtype_note = Some(format!("weights stay in {kept}; computing in {computed}"));
    } else if matrices.size() > stored.size() && !in_fp8(&files.config, config) {
        let twice = ", which takes twice the memory of the checkpoint";
        dtype_note = dtype_note.map(|note| note + twice);
    }
    check_quant(device, config)?;
    check_memory(&files.config, device, [dtype, stored], config)?;
    let limit = files.config.max_position_embeddings();
    let context = config.max_context.unwrap_or(limit).clamp(1, limit);

    let format = Format {
        dtype,
        matrices: placement::matrices(dtype, device, config),
        fp8: config.fp8.numerics(),
        quantise: config.quant.quantise(),
        quantization: files.config.quantization().cloned(),
        allow_nan: config.allow_nan,
        map: config.mmap,
    };
    glm_backends::ops::use_reference_only(config.reference_ops);
    let (rank, handle) = (Rank::SINGLE, &device.device);
    let loader = match &files.weights {
        WeightSource::Checkpoint(source) => Loader::new(source, handle, rank, format, report),
        WeightSource::Random(weights) => Loader::random(weights, handle, rank, format, report),
    };
    let parts = match config.drafts {
        DraftChoice::Fixed(0) => config.parts,
        _ => Parts::MainAndMtp,
    };
    let model = Model::load(loader, &files.config, context, parts)?;

    let spec = Model::kv_spec(&files.config, rank);
    let draft_spec = model.drafts().then(|| Model::draft_kv_spec(&files.config, rank));
    let kv_format = match config.kv_dtype {
        KvDtypeChoice::Auto => KvFormat::Float(dtype),
        KvDtypeChoice::Fp8 => KvFormat::Fp8,
        choice => {
            let wanted = choice.dtype().unwrap_or(dtype);
            check_dtype(device, wanted)?;
            KvFormat::Float(wanted)
        }
    };
    let page_size = spec.page_size();
    let bytes_per_token = spec.bytes_per_token(kv_format)
        + draft_spec.map_or(0, |spec| spec.bytes_per_token(kv_format));
    let pages = cache_pages(device, config, bytes_per_token * page_size, page_size, context)?;
    let pool = |spec| KvPool::new(spec, pages, kv_format, handle);
    let (kv, draft_kv) = (pool(spec), draft_spec.map(pool));

    let kv_tokens = (pages - 1) * page_size;
    let context_length = context.min(kv_tokens);
    let can_draft = model.drafts() && config.drafts != DraftChoice::Fixed(0);
    let most_drafts = match config.drafts {
        _ if !can_draft => 0,
        DraftChoice::Fixed(drafts) => drafts,
        DraftChoice::Auto if config.deterministic => 0,
        DraftChoice::Auto => DraftChoice::MOST,
    };
    let runner_config = RunnerConfig {
        max_batch: config.max_batch,
        context_length,
        vocab_size: files.config.vocab_size(),
        prefill_chunk: config.prefill_chunk,
        tokens: files.tokenizer.vocab_len(),
        deterministic: config.deterministic,
        profile: config.profile,
        record_steps: config.record_steps && device.kind != BackendKind::Cpu,
    };
    let plan = Plan::new(
        &files.config,
        Demand {
            dtype,
            matrices,
            quantise: config.quant.quantise(),
            kv: kv_format,
            mtp: can_draft,
            context: context_length,
            batch: config.max_batch,
            prefill_chunk: config.prefill_chunk,
            max_scores: MAX_SCORES,
        },
    );
    let on_cpu = device.kind == BackendKind::Cpu;
    let limits = Limits {
        page_size,
        pages,
        max_batch: config.max_batch,
        step_tokens: config.prefill_chunk + config.max_batch * (1 + most_drafts),
        prefill_chunk: config.prefill_chunk,
        context_length,
        max_scores: (!on_cpu).then_some(MAX_SCORES),
        prefix_cache: config.prefix_cache,
        deterministic: config.deterministic,
    };
    let core = CoreConfig {
        tokenizer: files.tokenizer.clone(),
        dtype: dtype.name(),
        drafts: if most_drafts == 0 { DraftChoice::Fixed(0) } else { config.drafts },
        can_draft: most_drafts > 0,
        layers: files.config.num_hidden_layers(),
        // The CPU computes a step while it is launched: nothing is gained by a second one.
        steps_in_flight: config.steps_in_flight.unwrap_or(if on_cpu { 1 } else { 2 }),
        on_panic: config.on_panic,
    };
    Ok(Loaded {
        runner: Runner::new(model, kv, draft_kv, runner_config, handle.clone()),
        scheduler: Box::new(move || Scheduler::new(limits)),
        core,
        limits: EngineLimits {
            context_length,
            max_batch: config.max_batch,
            kv_tokens,
            kv_bytes_per_token: bytes_per_token,
            kv_dtype: kv_format.name(),
            most_drafts,
        },
        plan,
        dtype,
        dtype_note,
        files: Arc::new(files),
    })
}

/// Threads that compute on the CPU: a second thread of a core adds nothing where memory is what is
/// waited for. Which cores and which part of the memory they get is left to the system.
pub(crate) fn threads(config: &EngineConfig) -> usize {
    let allowed = thread::available_parallelism().map_or(1, usize::from);
    config.threads.unwrap_or_else(|| num_cpus::get_physical().min(allowed).max(1))
}

/// Makes this thread one of those that compute on the CPU. Otherwise each product would wait until
/// another thread is awake, and then for that one to wake this one. The others end with the pool.
/// `None` where the system has no threads for them: all is computed by rayon's own ones then.
fn workers(threads: usize) -> Option<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build().ok()
}

/// Starts the engine's thread.
pub(crate) fn spawn(
    runner: Runner,
    scheduler: NewScheduler,
    mailbox: Mailbox<Command<Runner>, String>,
    stats: Arc<Mutex<Stats>>,
    config: CoreConfig,
    threads: usize,
) -> Result<JoinHandle<()>, EngineError> {
    let serve = move || {
        let _workers = workers(threads);
        let mut core = Core::new(runner, scheduler, mailbox, stats, config);
        if let Some(reason) = core.run() {
            core.close(&reason);
        }
    };
    let thread = thread::Builder::new().name("engine".into()).spawn(serve);
    thread.map_err(|error| EngineError::Thread { reason: error.to_string() })
}
