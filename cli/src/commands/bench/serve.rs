//! Open-loop load on a server: requests come when they come, whether or not others are answered.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use glm_runtime::measure::{Goal, Summary, Timeline};
use glm_server::client::{Client, Endpoint};

use super::report::{Report, Row};
use super::{check_output, show};
use crate::args::{EndpointChoice, ServeArgs};
use crate::commands::Outcome;
use crate::interrupt::Answering;
use crate::{resolve, ui};

/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// A request's thread does little.
const STACK: usize = 1 << 19;

/// Common words: in most vocabularies each is one token, with the space before it.
const WORDS: [&str; 48] = [
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "this", "are", "or", "his", "from", "at", "which", "but", "have", "an",
    "had", "they", "you", "were", "their", "one", "all", "we", "can", "her", "has", "there",
    "been", "if", "more", "when", "will", "would", "who", "so", "no",
];

/// Measures each rate.
pub(super) fn serve(args: &ServeArgs) -> Result<Outcome> {
    check_output(&args.output)?;
    let mut prompts = Source::new(args)?;
    let endpoint = match args.endpoint {
        EndpointChoice::Chat => Endpoint::Chat,
        EndpointChoice::Completions => Endpoint::Completions,
    };
    let key = args.key_from.as_deref().map(|name| {
        let key = resolve::variable(name).filter(|key| !key.is_empty());
        key.with_context(|| format!("--key-from {name}: there is no such environment variable"))
    });
    let key = key.transpose()?;
    let silence = Duration::try_from_secs_f64(args.timeout).unwrap_or(Duration::MAX);
    let mut client = Client::new(&args.url, key, endpoint, silence)?;
    client.model = match &args.model {
        Some(model) => model.clone(),
        None => {
            client.models().context("cannot ask for the model; name it with --model")?.remove(0)
        }
    };
    let goal =
        Goal { ttft_ms: args.goal_ttft_ms, tpot_ms: args.goal_tpot_ms, e2e_ms: args.goal_e2e_ms };
    // Not measured: a server that is not there, or does not know the model, is told at once.
    let tried = client.ask(&prompts.next(), 1, Instant::now());
    if let Some(error) = tried.error {
        bail!(error);
    }
    let answering = Answering::begin();
    let mut report = Report::of_server(&args.url, &client.model);
    for &rate in &args.rate {
        let arrivals = arrivals(rate, args.requests, args.output.seed);
        let requests: VecDeque<_> = arrivals.into_iter().map(|due| (due, prompts.next())).collect();
        let bar = ui::Bar::requests(format!("{rate} requests/s"));
        let mut seen = |done| bar.set(done as u64, args.requests as u64);
        let timelines = run(&client, requests, args, &answering, &mut seen)?;
        drop(bar);
        if timelines.is_empty() {
            break;
        }
        let summary = Summary::new(&timelines, &goal);
        report.rows.push(Row::of_server(rate, summary));
        if answering.stop_asked() {
            break;
        }
    }
    let outcome = show(&report, &args.output, answering)?;
    let answered = report.rows.iter().any(|row| row.summary.answered > 0);
    let reason = report.rows.iter().find_map(|row| row.summary.first_error.as_deref());
    match reason {
        Some(reason) if !answered => bail!("no request was answered: {reason}"),
        Some(reason) => ui::warning(format!("some requests failed; the first one: {reason}")),
        None => {}
    }
    Ok(outcome)
}

/// Seconds at which requests are sent: the gaps between them follow an exponential distribution, so
/// that arrivals are a Poisson process.
fn arrivals(rate: f64, count: usize, seed: u64) -> Vec<f64> {
    let mut random = Rng::with_seed(seed);
    let mut at = 0.0;
    let mut next = || {
        let due = at;
        // 1 - u is never 0.
        at += -(1.0 - random.f64()).ln() / rate;
        due
    };
    (0..count).map(|_| next()).collect()
}

/// Sends each request at its time, and waits for all answers; after Ctrl-C for none any more.
fn run(
    client: &Client,
    mut waiting: VecDeque<(f64, String)>,
    args: &ServeArgs,
    answering: &Answering,
    seen: &mut dyn FnMut(usize),
) -> Result<Vec<Timeline>> {
    let (ended, answers) = mpsc::channel();
    let began = Instant::now();
    let (mut under_way, mut timelines) = (0, Vec::new());
    while under_way > 0 || !waiting.is_empty() {
        let due = waiting.front().filter(|_| under_way < args.max_concurrency);
        let left = due.map(|(due, _)| due - began.elapsed().as_secs_f64());
        if left.is_some_and(|left| left <= 0.0)
            && let Some((_, prompt)) = waiting.pop_front()
        {
            let (client, ended, tokens) = (client.clone(), ended.clone(), args.output_tokens);
            let ask = move || {
                // Nobody listens any more after Ctrl-C.
                let _ = ended.send(client.ask(&prompt, tokens, began));
            };
            let thread = thread::Builder::new().stack_size(STACK).spawn(ask);
            thread.with_context(|| {
                format!("{under_way} requests are under way: lower --max-concurrency")
            })?;
            under_way += 1;
            continue;
        }
        if answering.stop_asked() {
            break;
        }
        let wait = left.map_or(LOOK, |left| LOOK.min(Duration::from_secs_f64(left.max(0.0))));
        match answers.recv_timeout(wait) {
            Ok(timeline) => {
                under_way -= 1;
                timelines.push(timeline);
                seen(timelines.len());
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    Ok(timelines)
}

/// Where prompts come from.
enum Source {
    /// Made of so many words each.
    Words { count: usize, random: Rng, made: usize },
    /// One after the other, again and again.
    Lines { lines: Vec<String>, next: usize },
}

impl Source {
    fn new(args: &ServeArgs) -> Result<Self> {
        let Some(path) = &args.prompts else {
            let random = Rng::with_seed(args.output.seed);
            return Ok(Source::Words { count: args.prompt_tokens, random, made: 0 });
        };
        Ok(Source::Lines { lines: lines(path)?, next: 0 })
    }

    fn next(&mut self) -> String {
        match self {
            Source::Words { count, random, made } => {
                *made += 1;
                // A number in front: no two of them begin alike.
                let mut text = made.to_string();
                for _ in 1..*count {
                    text.push(' ');
                    text.push_str(random.choice(WORDS).unwrap_or_default());
                }
                text
            }
            Source::Lines { lines, next } => {
                *next += 1;
                lines[(*next - 1) % lines.len()].clone()
            }
        }
    }
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the prompts in {}", path.display()))?;
    let lines: Vec<_> =
        text.lines().filter(|line| !line.trim().is_empty()).map(ToOwned::to_owned).collect();
    ensure!(!lines.is_empty(), "{} has no prompt: one on each line is needed", path.display());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_their_rate_and_by_their_seed() {
        let times = arrivals(4.0, 4000, 7);
        assert_eq!(times, arrivals(4.0, 4000, 7));
        assert_ne!(times, arrivals(4.0, 4000, 8));
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]) && times[0] == 0.0);
        let mean = times[3999] / 3999.0;
        // Three standard deviations of the mean of 3999 gaps.
        assert!((mean - 0.25).abs() < 3.0 * 0.25 / 3999_f64.sqrt(), "{mean}");
        // The deviation of exponential gaps is their mean; gaps of one length have none.
        let squares: f64 = times.windows(2).map(|pair| (pair[1] - pair[0] - mean).powi(2)).sum();
        let deviation = (squares / 3999.0).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.1, "{deviation}");
        assert_eq!(arrivals(f64::INFINITY, 3, 1), [0.0; 3]);
    }
}
