//! Many streams against one engine.

use anyhow::Result;
use glm_runtime::measure::{Driven, Goal, Summary, Usage, drive};

use super::report::{Report, Row, Scale, SpeedUp};
use super::{PAGE, Subject, check_output, show};
use crate::args::{BenchOutputArgs, SweepArgs, ThroughputArgs};
use crate::commands::Outcome;
use crate::interrupt::Answering;
use crate::ui;

/// Tokens of the answers to requests that are not measured.
const TRIAL: usize = 4;

/// What each request asks for.
#[derive(Clone, Copy)]
struct Sizes {
    /// Tokens of a stream that are in the cache before its prompts.
    depth: usize,
    prompt: usize,
    output: usize,
}

/// All requests at once.
pub(super) fn throughput(args: &ThroughputArgs) -> Result<Outcome> {
    let sizes = Sizes { depth: 0, prompt: args.prompt_tokens, output: args.output_tokens };
    check_output(&args.output)?;
    let subject = load(&args.model, &args.output, sizes, args.requests)?;
    measure(subject, Scale::Batch, &[(args.requests, args.requests)], sizes, &args.output)
}

/// Rising numbers of streams.
pub(super) fn sweep(args: &SweepArgs) -> Result<Outcome> {
    let depth = args.depth / PAGE * PAGE;
    let sizes = Sizes { depth, prompt: args.prompt_tokens, output: args.output_tokens };
    check_output(&args.output)?;
    let most = args.streams.iter().copied().max().unwrap_or(1);
    let subject = load(&args.model, &args.output, sizes, most)?;
    if most > args.model.max_batch {
        ui::warning(format!(
            "{most} streams are more than are computed at once: --max-batch is {}",
            args.model.max_batch
        ));
    }
    let runs: Vec<_> =
        args.streams.iter().map(|streams| (*streams, streams * args.requests)).collect();
    measure(subject, Scale::Streams, &runs, sizes, &args.output)
}

fn load(
    model: &crate::args::BenchModelArgs,
    output: &BenchOutputArgs,
    sizes: Sizes,
    streams: usize,
) -> Result<Subject> {
    Subject::load(model, output.seed, sizes.depth + sizes.prompt + sizes.output, streams)
}

/// Runs of so many streams and requests.
fn measure(
    mut subject: Subject,
    scale: Scale,
    runs: &[(usize, usize)],
    sizes: Sizes,
    output: &BenchOutputArgs,
) -> Result<Outcome> {
    let answering = Answering::begin();
    let mut report = Report::new(subject.machine.clone(), scale);
    let mut first: Option<SpeedUp> = None;
    let mut prefixes: Vec<Vec<u32>> = Vec::new();
    for &(streams, requests) in runs {
        if sizes.depth > 0 {
            // One after the other: each is computed whole, and is there when the streams begin.
            for stream in prefixes.len()..streams {
                let prefix = subject.prompts.next(sizes.depth);
                // Its last page is only full once a token comes after it.
                let fill = [&prefix[..], &[0]].concat();
                prefixes.push(prefix);
                let fill = vec![subject.request(fill, 1)];
                let bar = ui::Bar::requests("filling the cache");
                bar.set(stream as u64, streams as u64);
                drive(&subject.engine, fill, 1, &mut |_| !answering.stop_asked())?;
            }
        }
        // Kernels are compiled and tuned, and memory is taken, before anything counts.
        let trial = Sizes { output: TRIAL.min(sizes.output), ..sizes };
        let what = format!("{streams} streams: trying");
        let tried = run(&mut subject, &what, streams, streams, trial, &prefixes, &answering)?;
        if tried.is_none() {
            break;
        }
        let what = format!("{streams} streams");
        let Some(driven) =
            run(&mut subject, &what, streams, requests, sizes, &prefixes, &answering)?
        else {
            break;
        };
        let summary = Summary::new(&driven.timelines, &Goal::default());
        let usage = |driven: &Driven, seconds| {
            Usage::of(subject.engine.plan(), &driven.stats, seconds, subject.speed())
        };
        let whole = usage(&driven, summary.seconds);
        let mut parts = whole.parts(&driven.stats);
        if subject.computes_apart() {
            subject.engine.set_profile(true)?;
            let what = format!("{streams} streams: where the time goes");
            let profiled =
                run(&mut subject, &what, streams, streams, sizes, &prefixes, &answering)?;
            subject.engine.set_profile(false)?;
            let Some(profiled) = profiled else { break };
            let seconds = Summary::new(&profiled.timelines, &Goal::default()).seconds;
            let told = Usage::of(subject.engine.plan(), &profiled.stats, seconds, subject.speed());
            parts = told.parts(&profiled.stats);
        }
        let tokens = summary.output_tokens as f64;
        let speed = SpeedUp {
            reached: summary.output_tokens_per_second(),
            allowed: tokens / whole.bound_seconds,
        };
        let base = *first.get_or_insert(speed);
        report.rows.push(Row {
            place: streams as f64,
            streams,
            prompt_tokens_per_second: None,
            output_tokens_per_second: speed.reached,
            bandwidth_share: Some(whole.bandwidth_share()),
            flop_share: Some(whole.flop_share()),
            bound_share: Some(whole.bound_share()),
            parts: Some(parts),
            prompt_parts: None,
            device_idle_share: Some(driven.stats.seconds.device_idle / summary.seconds),
            stats: Some(driven.stats),
            speed_up: Some(SpeedUp {
                reached: speed.reached / base.reached,
                allowed: speed.allowed / base.allowed,
            }),
            summary,
        });
        if scale == Scale::Batch {
            report.timelines = driven.timelines;
        }
    }
    show(&report, output, answering)
}

/// One run; `None` when Ctrl-C ended it.
fn run(
    subject: &mut Subject,
    what: &str,
    streams: usize,
    requests: usize,
    sizes: Sizes,
    prefixes: &[Vec<u32>],
    answering: &Answering,
) -> Result<Option<Driven>> {
    let request = |number: usize| {
        let prompt = subject.prompts.next(sizes.prompt);
        let prefix = prefixes.get(number % streams).map_or(&[][..], Vec::as_slice);
        [prefix, &prompt[..]].concat()
    };
    let prompts: Vec<_> = (0..requests).map(request).collect();
    let requests: Vec<_> =
        prompts.into_iter().map(|prompt| subject.request(prompt, sizes.output)).collect();
    let bar = ui::Bar::tokens(what);
    let (mut done, total) = (0, requests.len() * sizes.output);
    let driven = drive(&subject.engine, requests, streams, &mut |tokens| {
        done += tokens;
        bar.set(done as u64, total as u64);
        !answering.stop_asked()
    })?;
    Ok((!answering.stop_asked()).then_some(driven))
}
