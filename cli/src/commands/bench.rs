//! `glm bench`: how fast a model answers, and how that compares with what the device can do.

mod charts;
mod json;
mod latency;
mod plot;
mod report;
mod serve;
mod streams;

use anyhow::{Context, Result, ensure};
use glm_backends::device::{BackendKind, DeviceSpeed, OpenDevice};
use glm_runtime::measure::Prompts;
use glm_runtime::{Engine, Request, SamplingParams};

use super::Outcome;
use crate::args::{Bench, BenchArgs, BenchModelArgs, BenchOutputArgs};
use crate::interrupt::Answering;
use crate::model::ModelChoice;
use crate::resolve::Place;
use crate::{files, ui};
use report::{Machine, Report};

/// Tokens of a page: what is shared of a prompt is whole pages.
const PAGE: usize = 64;

/// Measures what was asked for.
pub(crate) fn bench(args: &BenchArgs) -> Result<Outcome> {
    match &args.what {
        Bench::Latency(args) => latency::latency(args),
        Bench::Throughput(args) => streams::throughput(args),
        Bench::Sweep(args) => streams::sweep(args),
        Bench::Serve(args) => serve::serve(args),
    }
}

/// A model that is loaded to be measured.
struct Subject {
    engine: Engine,
    device: OpenDevice,
    machine: Machine,
    prompts: Prompts,
}

impl Subject {
    /// Loads the model with a cache for `tokens` tokens of each of `streams` sequences at least.
    fn load(args: &BenchModelArgs, seed: u64, tokens: usize, streams: usize) -> Result<Self> {
        let choice = ModelChoice::new(args.model.as_deref())?;
        choice.note_unused(&args.source);
        let mut place = Place::open(&args.engine)?;
        args.tuning.apply(&mut place.config);
        place.config.max_batch = args.max_batch;
        place.config.validate()?;
        let files = choice.open(&args.source, &place)?;
        let limit = files.config.max_position_embeddings();
        let limit = args.tuning.max_context.map_or(limit, |most| most.min(limit));
        ensure!(
            tokens <= limit,
            "prompt and answer take {tokens} tokens, wanted at most {limit}: the context holds no \
             more"
        );
        if place.config.max_context.is_none() {
            // Nothing here is longer: memory is better used for more sequences.
            place.config.max_context = Some(tokens.next_multiple_of(64) + 64);
        }
        let engine = place.load(files)?;
        let room = engine.limits().kv_tokens;
        ensure!(
            tokens <= engine.context_length(),
            "prompt and answer take {tokens} tokens and the KV cache has room for {room}"
        );
        let batch = streams.min(args.max_batch);
        if room < tokens * batch {
            ui::warning(format!(
                "the KV cache has room for {room} tokens, and {batch} sequences take {}: some \
                 will wait or be computed again",
                tokens * batch
            ));
        }
        ui::note("measuring a copy and a product of matrices");
        let speed = place.device.measure_speed(engine.dtype());
        let speed = speed.map_err(anyhow::Error::msg).context("the device does not compute")?;
        let layers = engine.files().config.num_hidden_layers();
        let machine = Machine::new(&choice, &engine, &place.device, layers, speed);
        let tokens = engine.files().tokenizer.vocab_len().max(2);
        let prompts = Prompts::new(tokens, seed);
        Ok(Self { engine, device: place.device, machine, prompts })
    }

    fn speed(&self) -> DeviceSpeed {
        self.machine.speed
    }

    /// Whether the parts of a step only tell their time when they are waited for.
    fn computes_apart(&self) -> bool {
        self.device.kind != BackendKind::Cpu
    }

    /// A request for exactly `tokens` tokens.
    fn request(&self, prompt: Vec<u32>, tokens: usize) -> Request {
        Request {
            max_tokens: Some(tokens),
            ignore_eos: true,
            ..Request::new(prompt, SamplingParams::greedy())
        }
    }
}

/// Refuses, before anything is loaded, a file that could not be written.
fn check_output(output: &BenchOutputArgs) -> Result<()> {
    output.plot.as_deref().map_or(Ok(()), files::check_writable)
}

/// Prints the report and draws it where asked. From here on Ctrl-C leaves.
fn show(report: &Report, output: &BenchOutputArgs, answering: Answering) -> Result<Outcome> {
    let outcome = match answering.stop_asked() {
        true => Outcome::Interrupted,
        false => Outcome::Done,
    };
    drop(answering);
    if let Some(path) = &output.plot {
        plot::write(&report.charts(), path)?;
    }
    if output.verbose {
        let launches = report.rows.iter().filter_map(|row| row.stats.as_ref());
        let launches = launches.map(|stats| stats.recording.launches).max().unwrap_or(0);
        if let Some(machine) = report.machine.as_ref().filter(|_| launches > 0) {
            let of_layer = launches as f64 / machine.layers as f64;
            ui::note(format!(
                "a step of few tokens launches {launches} kernels, {of_layer:.1} a layer, where it \
                 is not a recording"
            ));
        }
    }
    let text = if output.json { report.json() } else { report.table() };
    ui::output(&text)?;
    Ok(outcome)
}
