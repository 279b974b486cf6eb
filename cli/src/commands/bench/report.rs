//! Results as a table, as JSON, and as charts.

use glm_backends::device::{DeviceSpeed, OpenDevice};
use glm_runtime::measure::{Parts, Percentiles, Summary, Timeline};
use glm_runtime::{Engine, Stats};
use serde_json::{Value, json};

use super::plot::{Chart, Series};
use crate::model::ModelChoice;
use crate::ui;

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    model: String,
    device: String,
    dtype: &'static str,
    kv_tokens: usize,
    pub(super) speed: DeviceSpeed,
}

impl Machine {
    pub(super) fn new(
        choice: &ModelChoice,
        engine: &Engine,
        device: &OpenDevice,
        speed: DeviceSpeed,
    ) -> Self {
        Machine {
            model: choice.name(),
            device: device.label(),
            dtype: engine.dtype().name(),
            kv_tokens: engine.limits().kv_tokens,
            speed,
        }
    }
}

/// What the rows differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Tokens in the cache before the prompt.
    Depth,
    /// Nothing: there is one row.
    Batch,
    /// Streams at once.
    Streams,
    /// Requests per second.
    Rate,
}

/// Speed against that of the first row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SpeedUp {
    pub(super) reached: f64,
    /// By bytes and operations alone.
    pub(super) allowed: f64,
}

/// One measurement.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// On the scale of the report.
    pub(super) place: f64,
    pub(super) streams: usize,
    pub(super) summary: Summary,
    pub(super) prompt_tokens_per_second: Option<f64>,
    pub(super) output_tokens_per_second: f64,
    pub(super) bandwidth_share: Option<f64>,
    pub(super) flop_share: Option<f64>,
    pub(super) bound_share: Option<f64>,
    pub(super) parts: Option<Parts>,
    pub(super) prompt_parts: Option<Parts>,
    pub(super) device_idle_share: Option<f64>,
    pub(super) stats: Option<Stats>,
    pub(super) speed_up: Option<SpeedUp>,
}

impl Row {
    /// Of a server, of which only the answers are known.
    pub(super) fn of_server(rate: f64, summary: Summary) -> Self {
        Row {
            place: rate,
            streams: 0,
            prompt_tokens_per_second: None,
            output_tokens_per_second: summary.output_tokens_per_second(),
            bandwidth_share: None,
            flop_share: None,
            bound_share: None,
            parts: None,
            prompt_parts: None,
            device_idle_share: None,
            stats: None,
            speed_up: None,
            summary,
        }
    }
}

/// All rows.
#[derive(Debug)]
pub(super) struct Report {
    machine: Option<Machine>,
    /// Address and model.
    server: Option<(String, String)>,
    scale: Scale,
    pub(super) rows: Vec<Row>,
    /// Of the only row of a batch.
    pub(super) timelines: Vec<Timeline>,
}

impl Report {
    pub(super) fn new(machine: Machine, scale: Scale) -> Self {
        let machine = Some(machine);
        Report { machine, server: None, scale, rows: Vec::new(), timelines: Vec::new() }
    }

    pub(super) fn of_server(url: &str, model: &str) -> Self {
        let server = Some((url.to_owned(), model.to_owned()));
        let (rows, timelines) = (Vec::new(), Vec::new());
        Report { machine: None, server, scale: Scale::Rate, rows, timelines }
    }

    /// What was measured, then a row for each measurement.
    pub(super) fn table(&self) -> String {
        let mut text = match (&self.machine, &self.server) {
            (Some(machine), _) => machine.lines(),
            (None, Some((url, model))) => format!("{url}, model {model}\n"),
            (None, None) => String::new(),
        };
        text.push('\n');
        match self.scale {
            Scale::Rate => text += &ui::table(&SERVED, &self.cells(served)),
            Scale::Depth => {
                text += &ui::table(&ONE_STREAM, &self.cells(one_stream));
                text += "\nwhere the time of the prompt went, and that of the answer\n";
                let parts = |what: &str, place, parts: Option<Parts>| {
                    parts.map(|parts| {
                        let mut cells = vec![format!("{place}"), what.to_owned()];
                        cells.extend(shares(&parts));
                        cells
                    })
                };
                let rows = self.rows.iter().flat_map(|row| {
                    [
                        parts("prompt", row.place, row.prompt_parts),
                        parts("answer", row.place, row.parts),
                    ]
                });
                let heading = [&["DEPTH", "OF"], &PARTS[..]].concat();
                text += &ui::table(&heading, &rows.flatten().collect::<Vec<_>>());
            }
            Scale::Batch | Scale::Streams => {
                text += &ui::table(&STREAMS, &self.cells(streams));
                text += "\nwhere the time went\n";
                let rows = self.rows.iter().filter_map(|row| {
                    let mut cells = vec![row.streams.to_string()];
                    cells.extend(shares(&row.parts?));
                    cells.push(percent(row.device_idle_share));
                    cells.push(acceptance(row.stats.as_ref()));
                    Some(cells)
                });
                let heading =
                    [&["STREAMS"], &PARTS[..], &["DEVICE IDLE", "DRAFTS ACCEPTED"]].concat();
                text += &ui::table(&heading, &rows.collect::<Vec<_>>());
            }
        }
        text
    }

    fn cells(&self, cells: impl Fn(&Row) -> Vec<String>) -> Vec<Vec<String>> {
        self.rows.iter().map(cells).collect()
    }

    /// One object, on lines of its own.
    pub(super) fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(|row| object(self.scale, row)).collect();
        let mut value = json!({ "rows": rows });
        if let Some(machine) = &self.machine {
            value["model"] = json!(machine.model);
            value["device"] = json!(machine.device);
            value["dtype"] = json!(machine.dtype);
            value["kv_tokens"] = json!(machine.kv_tokens);
            value["device_bytes_per_s"] = json!(machine.speed.bytes_per_second);
            value["device_flops_per_s"] = json!(machine.speed.flops_per_second);
        }
        if let Some((url, model)) = &self.server {
            value["url"] = json!(url);
            value["model"] = json!(model);
        }
        value["version"] = json!(env!("CARGO_PKG_VERSION"));
        format!("{value:#}\n")
    }

    /// What `--plot` draws.
    pub(super) fn charts(&self) -> Vec<Chart> {
        let series = |name: &str, value: &dyn Fn(&Row) -> Option<f64>| Series {
            name: name.to_owned(),
            points: self.rows.iter().filter_map(|row| Some((row.place, value(row)?))).collect(),
        };
        let speed = series("answer", &|row| Some(row.output_tokens_per_second));
        let latency =
            |p: fn(&Percentiles) -> f64| move |row: &Row| row.summary.ttft_ms.as_ref().map(p);
        let per_token =
            |p: fn(&Percentiles) -> f64| move |row: &Row| row.summary.tpot_ms.as_ref().map(p);
        let ttft =
            vec![series("median", &latency(|it| it.p50)), series("99 %", &latency(|it| it.p99))];
        let tpot = vec![
            series("median", &per_token(|it| it.p50)),
            series("99 %", &per_token(|it| it.p99)),
        ];
        let chart = |title: &str, across: &str, up: &str, series| Chart {
            title: title.to_owned(),
            across: across.to_owned(),
            up: up.to_owned(),
            series,
        };
        match self.scale {
            Scale::Depth => {
                let prompt = series("prompt", &|row| row.prompt_tokens_per_second);
                let across = "tokens in the cache before";
                vec![
                    chart("prompt", across, "tokens/s", vec![prompt]),
                    chart("answer", across, "tokens/s", vec![speed]),
                ]
            }
            Scale::Streams => {
                let first = self.rows.first().map(|row| row.output_tokens_per_second);
                let allowed = series("what bytes and operations allow", &|row| {
                    Some(first? * row.speed_up?.allowed)
                });
                let speed = vec![speed, allowed];
                vec![
                    chart("all streams together", "streams", "tokens/s", speed),
                    chart("time to the first token", "streams", "ms", ttft),
                    chart("time per token", "streams", "ms", tpot),
                ]
            }
            Scale::Rate => vec![
                chart("all answers together", "requests/s", "tokens/s", vec![speed]),
                chart("time to the first token", "requests/s", "ms", ttft),
                chart("time per token", "requests/s", "ms", tpot),
            ],
            Scale::Batch => {
                let points = tokens_over_time(&self.timelines);
                let series = vec![Series { name: "answers".into(), points }];
                vec![chart("tokens of the answers", "seconds", "tokens", series)]
            }
        }
    }
}

impl Machine {
    fn lines(&self) -> String {
        let DeviceSpeed { bytes_per_second, flops_per_second } = self.speed;
        format!(
            "model   {}\ndevice  {}, {}; memory {:.1} GB/s, products of matrices {:.1} GFLOP/s \
             (measured)\ncache   {} tokens\n",
            self.model,
            self.device,
            self.dtype,
            bytes_per_second / 1e9,
            flops_per_second / 1e9,
            self.kv_tokens
        )
    }
}

/// How many tokens had come when.
fn tokens_over_time(timelines: &[Timeline]) -> Vec<(f64, f64)> {
    let mut arrivals: Vec<(f64, usize)> =
        timelines.iter().flat_map(|timeline| timeline.arrivals.iter().copied()).collect();
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0;
    let mut points = vec![(0.0, 0.0)];
    for (at, tokens) in arrivals {
        sum += tokens;
        points.push((at, sum as f64));
    }
    // A picture has no room for more.
    let step = points.len().div_ceil(500).max(1);
    let last = points.last().copied();
    let mut points: Vec<_> = points.into_iter().step_by(step).collect();
    points.extend(last);
    points
}

const ONE_STREAM: [&str; 10] = [
    "DEPTH",
    "PROMPT",
    "TTFT ms",
    "PROMPT tok/s",
    "OF FLOP",
    "ANSWER",
    "TPOT ms",
    "ITL p99 ms",
    "ANSWER tok/s",
    "OF BANDWIDTH",
];
const STREAMS: [&str; 13] = [
    "STREAMS",
    "REQUESTS",
    "OUT tok/s",
    "ALL tok/s",
    "TTFT p50 ms",
    "TPOT p50 ms",
    "ITL p99 ms",
    "E2E p99 ms",
    "SPEED-UP",
    "ALLOWED",
    "OF BANDWIDTH",
    "OF FLOP",
    "OF BOUND",
];
const SERVED: [&str; 14] = [
    "RATE/s",
    "DONE",
    "FAILED",
    "REQ/s",
    "GOOD/s",
    "OUT tok/s",
    "TTFT p50",
    "p99 ms",
    "TPOT p50",
    "p99 ms",
    "ITL p50",
    "p99 ms",
    "E2E p50",
    "p99 ms",
];
const PARTS: [&str; 7] = ["WEIGHTS", "KV", "KERNELS", "SAMPLING", "DRAFTING", "HOST", "WAITING"];

fn one_stream(row: &Row) -> Vec<String> {
    let summary = &row.summary;
    let (prompt, answer) = (summary.prompt_tokens - summary.cached_tokens, summary.output_tokens);
    let each = |tokens: usize| (tokens / summary.answered.max(1)).to_string();
    vec![
        format!("{}", row.place),
        each(prompt),
        milliseconds(summary.ttft_ms, |it| it.p50),
        row.prompt_tokens_per_second.map_or_else(none, number),
        percent(row.flop_share),
        each(answer),
        milliseconds(summary.tpot_ms, |it| it.p50),
        milliseconds(summary.itl_ms, |it| it.p99),
        number(row.output_tokens_per_second),
        percent(row.bandwidth_share),
    ]
}

fn streams(row: &Row) -> Vec<String> {
    let summary = &row.summary;
    let times = |value: fn(SpeedUp) -> f64| {
        row.speed_up.map_or_else(none, |speed_up| format!("{:.2}x", value(speed_up)))
    };
    vec![
        row.streams.to_string(),
        summary.answered.to_string(),
        number(row.output_tokens_per_second),
        number(summary.total_tokens_per_second()),
        milliseconds(summary.ttft_ms, |it| it.p50),
        milliseconds(summary.tpot_ms, |it| it.p50),
        milliseconds(summary.itl_ms, |it| it.p99),
        milliseconds(summary.e2e_ms, |it| it.p99),
        times(|it| it.reached),
        times(|it| it.allowed),
        percent(row.bandwidth_share),
        percent(row.flop_share),
        percent(row.bound_share),
    ]
}

fn served(row: &Row) -> Vec<String> {
    let summary = &row.summary;
    let mut cells = vec![
        row.place.to_string(),
        summary.answered.to_string(),
        summary.failed.to_string(),
        format!("{:.2}", summary.requests_per_second()),
        format!("{:.2}", summary.goodput()),
        number(row.output_tokens_per_second),
    ];
    for spread in [summary.ttft_ms, summary.tpot_ms, summary.itl_ms, summary.e2e_ms] {
        cells.push(milliseconds(spread, |it| it.p50));
        cells.push(milliseconds(spread, |it| it.p99));
    }
    cells
}

fn shares(parts: &Parts) -> Vec<String> {
    let Parts { weights, kv, kernels, sampling, drafting, host, waiting } = *parts;
    let parts = [weights, kv, kernels, sampling, drafting, host, waiting];
    parts.map(|part| percent(Some(part))).into()
}

fn acceptance(stats: Option<&Stats>) -> String {
    let Some(stats) = stats.filter(|stats| stats.drafted[0] > 0) else { return none() };
    let places = stats.drafted.iter().zip(&stats.accepted).filter(|(drafted, _)| **drafted > 0);
    let shares = places
        .map(|(drafted, accepted)| format!("{:.0} %", 100.0 * *accepted as f64 / *drafted as f64));
    shares.collect::<Vec<_>>().join(", ")
}

fn none() -> String {
    "-".into()
}

fn milliseconds(spread: Option<Percentiles>, value: fn(&Percentiles) -> f64) -> String {
    spread.as_ref().map(value).map_or_else(none, number)
}

/// Three digits or more.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(none, |share| format!("{:.1} %", 100.0 * share))
}

fn object(scale: Scale, row: &Row) -> Value {
    let Row { summary, .. } = row;
    let spread = |spread: Option<Percentiles>| {
        spread.map(|it| {
            json!({"mean": it.mean, "p50": it.p50, "p90": it.p90, "p95": it.p95, "p99": it.p99})
        })
    };
    let place = match scale {
        Scale::Depth => "depth",
        Scale::Batch | Scale::Streams => "streams",
        Scale::Rate => "rate",
    };
    // JSON has no infinity: null is the rate of all at once.
    let at = Some(row.place).filter(|place| place.is_finite());
    let drafts = row.stats.as_ref().filter(|stats| stats.drafted[0] > 0).map(|stats| {
        let rate = |place: usize| stats.accepted[place] as f64 / stats.drafted[place] as f64;
        let acceptance: Vec<_> = (0..stats.drafted.len())
            .map(|place| (stats.drafted[place] > 0).then(|| rate(place)))
            .collect();
        json!({"drafted": stats.drafted, "accepted": stats.accepted, "acceptance": acceptance})
    });
    let parts = |parts: Option<Parts>| {
        parts.map(|it| {
            json!({
                "weights": it.weights, "kv": it.kv, "kernels": it.kernels,
                "sampling": it.sampling, "drafting": it.drafting, "host": it.host,
                "waiting": it.waiting,
            })
        })
    };
    let mut object = json!({
        "requests": summary.answered,
        "failed": summary.failed,
        "first_error": summary.first_error,
        "seconds": summary.seconds,
        "prompt_tokens": summary.prompt_tokens,
        "cached_tokens": summary.cached_tokens,
        "output_tokens": summary.output_tokens,
        "ttft_ms": summary.ttft_ms.map(|it| it.p50),
        "tpot_ms": summary.tpot_ms.map(|it| it.p50),
        "itl_ms": spread(summary.itl_ms),
        "ttft_percentiles_ms": spread(summary.ttft_ms),
        "tpot_percentiles_ms": spread(summary.tpot_ms),
        "e2e_percentiles_ms": spread(summary.e2e_ms),
        "prompt_tokens_per_s": row.prompt_tokens_per_second,
        "output_tokens_per_s": row.output_tokens_per_second,
        "total_tokens_per_s": summary.total_tokens_per_second(),
        "requests_per_s": summary.requests_per_second(),
        "goodput_per_s": summary.goodput(),
        "bandwidth_share": row.bandwidth_share,
        "flop_share": row.flop_share,
        "bound_share": row.bound_share,
        "parts": parts(row.parts),
        "prompt_parts": parts(row.prompt_parts),
        "device_idle_share": row.device_idle_share,
        "speed_up": row.speed_up.map(|it| it.reached),
        "allowed_speed_up": row.speed_up.map(|it| it.allowed),
        "preemptions": row.stats.as_ref().map(|stats| stats.preemptions),
        "steps": row.stats.as_ref().map(|stats| stats.steps),
        "drafts": drafts,
    });
    object[place] = json!(at);
    object
}
