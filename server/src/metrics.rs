//! What is counted, for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use glm_runtime::{Engine, Finish, Timings};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds.
const BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0, 20.0,
    60.0, 300.0, 1200.0,
];

type Labels = Vec<(&'static str, String)>;

/// Counters and histograms of the server.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    model: String,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    per_output_token: Histogram,
    finished: Family<Labels, Counter>,
    responses: Family<Labels, Counter>,
    failed: Counter,
    refused: Counter,
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        let seconds = || Histogram::new(BUCKETS);
        Metrics {
            model: model.to_owned(),
            time_to_first_token: seconds(),
            inter_token: seconds(),
            end_to_end: seconds(),
            queue: seconds(),
            prefill: seconds(),
            decode: seconds(),
            per_output_token: seconds(),
            finished: Family::default(),
            responses: Family::default(),
            failed: Counter::default(),
            refused: Counter::default(),
        }
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.time_to_first_token.observe(after.as_secs_f64());
    }

    pub(crate) fn next_token(&self, after: Duration) {
        self.inter_token.observe(after.as_secs_f64());
    }

    pub(crate) fn finished(&self, finish: Finish, timings: &Timings, after: Duration) {
        self.end_to_end.observe(after.as_secs_f64());
        self.queue.observe(timings.queue_seconds);
        self.prefill.observe(timings.prompt_seconds);
        self.decode.observe(timings.decode_seconds);
        if timings.decode_tokens > 0 {
            self.per_output_token.observe(timings.decode_seconds / timings.decode_tokens as f64);
        }
        self.finished.get_or_create(&vec![("finished_reason", finish.to_string())]).inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    /// A request was refused for want of room.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// An HTTP answer went out.
    pub(crate) fn answered(&self, status: u16) {
        self.responses.get_or_create(&vec![("status", status.to_string())]).inc();
    }

    /// All of it as Prometheus reads it, with what the engine counted.
    pub(crate) fn text(&self, engine: Option<&Engine>, open: usize, vllm: bool) -> String {
        let mut registry = Registry::default();
        self.fill(&mut registry, "glm_", engine, open);
        if vllm {
            self.fill(&mut registry, "vllm:", engine, open);
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &registry) {
            let _ = write!(text, "# {error}");
        }
        text
    }

    fn fill(&self, registry: &mut Registry, prefix: &str, engine: Option<&Engine>, open: usize) {
        let model = ("model_name".into(), self.model.clone().into());
        let registry = registry.sub_registry_with_label(model);
        let ours = prefix == "glm_";
        let name = |name: &str| format!("{prefix}{name}");
        for (histogram, its_name, help) in [
            (
                &self.time_to_first_token,
                "time_to_first_token_seconds",
                "From request to first token",
            ),
            (&self.inter_token, "inter_token_latency_seconds", "Between two tokens of an answer"),
            (&self.end_to_end, "e2e_request_latency_seconds", "From request to the end"),
            (&self.queue, "request_queue_time_seconds", "Waiting for a place"),
            (&self.prefill, "request_prefill_time_seconds", "Computing the prompt"),
            (&self.decode, "request_decode_time_seconds", "From first to last token"),
            (&self.per_output_token, "request_time_per_output_token_seconds", "Mean of an answer"),
        ] {
            registry.register(name(its_name), help, histogram.clone());
        }
        registry.register(name("request_success"), "Answers that ended", self.finished.clone());
        registry.register(
            name("admission_rejections"),
            "Requests refused as too many",
            self.refused.clone(),
        );
        registry.register(name("request_failures"), "Requests that failed", self.failed.clone());
        if ours {
            registry.register(name("http_responses"), "By status", self.responses.clone());
            let gauge: Gauge = Gauge::default();
            gauge.set(open as i64);
            registry.register(name("open_answers"), "In flight and waiting", gauge);
        }
        let Some(engine) = engine else { return };
        let (stats, limits) = (engine.stats(), engine.limits());
        let mut level = |its_name: &str, help: &str, value: f64| {
            let gauge: Gauge<f64, AtomicU64> = Gauge::default();
            gauge.set(value);
            registry.register(name(its_name), help, gauge);
        };
        level("num_requests_running", "Sequences that are computed", stats.running as f64);
        level("num_requests_waiting", "Sequences that wait", stats.waiting as f64);
        let used = stats.pages.held as f64 / stats.pages.total.max(1) as f64;
        level("kv_cache_usage_perc", "Share of the cache that is held, 1 is full", used);
        if ours {
            level("kv_cache_tokens", "Tokens that the cache has room for", limits.kv_tokens as f64);
            level("context_length", "Most tokens of a sequence", limits.context_length as f64);
            level(
                "device_idle_seconds",
                "Work was there and the device had none",
                stats.seconds.device_idle,
            );
            level(
                "replayed_steps",
                "Steps that ran as recordings",
                stats.recording.replayed as f64,
            );
        }
        let mut counter = |its_name: &str, help: &str, value: u64| {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            registry.register(name(its_name), help, counter);
        };
        let cached = stats.cached_tokens;
        counter(
            "prompt_tokens",
            "Tokens of prompts, cached ones included",
            stats.prompt_tokens + cached,
        );
        counter("generation_tokens", "Tokens of answers", stats.output_tokens);
        counter(
            "prefix_cache_queries",
            "Tokens looked for in the cache",
            stats.prompt_tokens + cached,
        );
        counter("prefix_cache_hits", "Tokens found there", cached);
        counter("num_preemptions", "Sequences that lost their pages", stats.preemptions);
        counter("spec_decode_num_drafts", "Rounds of drafts", stats.drafted[0]);
        counter("spec_decode_num_draft_tokens", "Drafts", stats.drafted.iter().sum());
        counter(
            "spec_decode_num_accepted_tokens",
            "Drafts that were kept",
            stats.accepted.iter().sum(),
        );
        let family: Family<Labels, Counter> = Family::default();
        for (position, accepted) in stats.accepted.iter().enumerate() {
            family.get_or_create(&vec![("position", position.to_string())]).inc_by(*accepted);
        }
        registry.register(
            name("spec_decode_num_accepted_tokens_per_pos"),
            "The same by place",
            family,
        );
        let mut counter = |its_name: &str, help: &str, value: u64| {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            registry.register(name(its_name), help, counter);
        };
        counter("iteration_tokens", "Rows of all steps", stats.rows);
        counter("corrupted_requests", "Answers that failed on the way", stats.failed);
        if ours {
            counter("steps", "Steps of the engine", stats.steps);
            counter("cancelled", "Answers whose receiver went away", stats.cancelled);
            counter("engine_restarts", "Times the engine began anew", stats.restarts);
        }
    }
}
