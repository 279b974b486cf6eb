//! Results for programs.

use glm_runtime::measure::{Parts, Percentiles};
use serde_json::{Value, json};

use super::report::{Report, Row, Scale};

impl Report {
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
        "replayed_steps": row.stats.as_ref().map(|stats| stats.recording.replayed),
        "launches_per_step": row.stats.as_ref().map(|stats| stats.recording.launches),
        "not_recorded": row.stats.as_ref().and_then(|stats| stats.recording.refused.as_deref()),
        "drafts": drafts,
    });
    object[place] = json!(at);
    object
}
