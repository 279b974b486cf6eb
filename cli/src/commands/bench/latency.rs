//! One stream at a time, as llama-bench's `pp` and `tg` with `-d`.

use std::time::Instant;

use anyhow::{Result, bail};
use glm_runtime::measure::{Goal, Summary, Timeline, Usage};
use glm_runtime::{Event, Request, Stats};

use super::report::{Report, Row, Scale};
use super::{PAGE, Subject, check_output, show};
use crate::args::LatencyArgs;
use crate::commands::Outcome;
use crate::interrupt::Answering;
use crate::ui;

/// One answer, and what the engine counted for its prompt and for the rest.
struct Measured {
    timeline: Timeline,
    prompt: Stats,
    answer: Stats,
}

/// Measures each depth.
pub(super) fn latency(args: &LatencyArgs) -> Result<Outcome> {
    check_output(&args.output)?;
    let depths: Vec<usize> = args.depth.iter().map(|depth| depth / PAGE * PAGE).collect();
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let tokens = deepest + args.prompt_tokens + args.output_tokens;
    let mut subject = Subject::load(&args.model, args.output.seed, tokens, 1)?;
    let answering = Answering::begin();
    let bar = ui::Bar::tokens("measuring");
    // Each depth is filled once, tried once, and measured.
    let each = args.prompt_tokens + args.output_tokens;
    let total = depths.iter().sum::<usize>() + depths.len() * (args.repeat + 1) * each;
    let mut done = 0;
    let mut report = Report::new(subject.machine.clone(), Scale::Depth);
    'depths: for depth in depths {
        let prefix = subject.prompts.next(depth);
        let mut measured = Vec::new();
        if depth > 0 {
            // Its last page is only full once a token comes after it.
            let fill = [&prefix[..], &[0]].concat();
            if answer(&subject, subject.request(fill, 1), &answering)?.is_none() {
                break 'depths;
            }
            done += depth;
        }
        for round in 0..=args.repeat + usize::from(subject.computes_apart()) {
            bar.set(done as u64, total as u64);
            let prompt = [&prefix[..], &subject.prompts.next(args.prompt_tokens)].concat();
            let request = subject.request(prompt, args.output_tokens);
            // The last round of a GPU is only for where the time goes.
            let profile = round > args.repeat;
            if profile {
                subject.engine.set_profile(true)?;
            }
            let one = answer(&subject, request, &answering)?;
            if profile {
                subject.engine.set_profile(false)?;
            }
            let Some(one) = one else { break 'depths };
            // The first round is for kernels that are compiled and tuned, and for caches.
            if round > 0 {
                measured.push(one);
            }
            done += each;
        }
        let profiled = subject.computes_apart().then(|| measured.pop()).flatten();
        report.rows.push(row(&subject, depth, &measured, profiled.as_ref()));
    }
    drop(bar);
    show(&report, &args.output, answering)
}

/// Has a request answered; `None` when Ctrl-C ended it.
fn answer(subject: &Subject, request: Request, answering: &Answering) -> Result<Option<Measured>> {
    let engine = &subject.engine;
    let before = engine.stats();
    let began = Instant::now();
    let mut timeline = Timeline { prompt_tokens: request.prompt.len(), ..Timeline::default() };
    let mut between = None;
    for event in engine.submit(request)? {
        match event {
            Event::Token { .. } => {
                timeline.arrivals.push((began.elapsed().as_secs_f64(), 1));
                between.get_or_insert_with(|| engine.stats());
            }
            Event::Finished { timings, .. } => timeline.cached_tokens = timings.cached_tokens,
            Event::Failed(failure) => bail!(failure),
            Event::Prompt { .. } | Event::PromptLogprobs(_) => {}
        }
        if answering.stop_asked() {
            return Ok(None);
        }
    }
    timeline.output_tokens = timeline.arrivals.len();
    timeline.ended = began.elapsed().as_secs_f64();
    let after = engine.stats();
    let between = between.unwrap_or_else(|| after.clone());
    Ok(Some(Measured { timeline, prompt: between.since(&before), answer: after.since(&between) }))
}

fn row(subject: &Subject, depth: usize, measured: &[Measured], profiled: Option<&Measured>) -> Row {
    let timelines: Vec<Timeline> = measured.iter().map(|one| one.timeline.clone()).collect();
    let summary = Summary::new(&timelines, &Goal::default());
    // The round in the middle stands for all of them.
    let mut by_time: Vec<&Measured> = measured.iter().collect();
    by_time.sort_by(|a, b| a.timeline.ended.total_cmp(&b.timeline.ended));
    let middle = by_time[by_time.len() / 2];
    let usage = |stats: &Stats, seconds: f64| {
        Usage::of(subject.engine.plan(), stats, seconds, subject.speed())
    };
    let of_answer = |one: &Measured| {
        let seconds = one.timeline.ended - one.timeline.ttft().unwrap_or(0.0);
        usage(&one.answer, seconds)
    };
    let of_prompt = |one: &Measured| usage(&one.prompt, one.timeline.ttft().unwrap_or(0.0));
    let told = profiled.unwrap_or(middle);
    let computed = middle.timeline.prompt_tokens - middle.timeline.cached_tokens;
    let prompt_speed = summary.ttft_ms.map(|ttft| 1e3 * computed as f64 / ttft.p50);
    let speed = summary.tpot_ms.map(|tpot| 1e3 / tpot.p50);
    Row {
        place: depth as f64,
        streams: 1,
        prompt_tokens_per_second: prompt_speed,
        output_tokens_per_second: speed.unwrap_or(0.0),
        bandwidth_share: Some(of_answer(middle).bandwidth_share()),
        flop_share: Some(of_prompt(middle).flop_share()),
        bound_share: Some(of_answer(middle).bound_share()),
        parts: Some(of_answer(told).parts(&told.answer)),
        prompt_parts: Some(of_prompt(told).parts(&told.prompt)),
        device_idle_share: Some(middle.answer.seconds.device_idle / of_answer(middle).seconds),
        stats: Some(middle.answer.clone()),
        speed_up: None,
        summary,
    }
}
