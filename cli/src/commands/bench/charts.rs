//! What `--plot` draws.

use glm_runtime::measure::{Percentiles, Timeline};

use super::plot::{Chart, Series};
use super::report::{Report, Row, Scale};

impl Report {
    /// The charts of all rows.
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
