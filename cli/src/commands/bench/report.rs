//! Results, and the table of them.

use glm_backends::device::{DeviceSpeed, OpenDevice};
use glm_runtime::measure::{Parts, Percentiles, Summary, Timeline};
use glm_runtime::{Engine, Stats};

use crate::model::ModelChoice;
use crate::ui;

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) model: String,
    pub(super) device: String,
    pub(super) dtype: &'static str,
    pub(super) kv_tokens: usize,
    pub(super) layers: usize,
    pub(super) speed: DeviceSpeed,
}

impl Machine {
    pub(super) fn new(
        choice: &ModelChoice,
        engine: &Engine,
        device: &OpenDevice,
        layers: usize,
        speed: DeviceSpeed,
    ) -> Self {
        Machine {
            model: choice.name(),
            device: device.label(),
            dtype: engine.dtype().name(),
            kv_tokens: engine.limits().kv_tokens,
            layers,
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
    pub(super) machine: Option<Machine>,
    /// Address and model.
    pub(super) server: Option<(String, String)>,
    pub(super) scale: Scale,
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
