//! When the tokens of a request came, and what that says of many requests.

/// One request. Times are seconds since the measurement began.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timeline {
    /// When it was sent.
    pub sent: f64,
    /// When something came, and how many tokens that were. Over HTTP the number of tokens of a
    /// chunk is not known and 1 stands for it; `output_tokens` counts.
    pub arrivals: Vec<(f64, usize)>,
    /// When it was over.
    pub ended: f64,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in a cache.
    pub cached_tokens: usize,
    /// Tokens of its answer.
    pub output_tokens: usize,
    /// Why there is no whole answer.
    pub error: Option<String>,
}

impl Timeline {
    /// Time to first token: seconds from the request to the first thing that came.
    pub fn ttft(&self) -> Option<f64> {
        self.arrivals.first().map(|(at, _)| at - self.sent)
    }

    /// Time per output token after the first: seconds from the first to the last thing that came,
    /// by the tokens after the first one.
    pub fn tpot(&self) -> Option<f64> {
        let (first, last) = (self.arrivals.first()?.0, self.arrivals.last()?.0);
        let after = self.output_tokens.checked_sub(1).filter(|after| *after > 0)?;
        Some((last - first) / after as f64)
    }

    /// Inter-token latencies: seconds between one thing that came and the next. With drafts, or over
    /// HTTP, several tokens may come at once.
    pub fn itl(&self) -> impl Iterator<Item = f64> {
        self.arrivals.windows(2).map(|pair| pair[1].0 - pair[0].0)
    }

    /// End to end: seconds from the request to its end.
    pub fn e2e(&self) -> f64 {
        self.ended - self.sent
    }
}

/// What an answer has to keep to count as good. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Goal {
    /// Most time to the first token.
    pub ttft_ms: Option<f64>,
    /// Most time per token after it.
    pub tpot_ms: Option<f64>,
    /// Most time to the end.
    pub e2e_ms: Option<f64>,
}

impl Goal {
    /// Whether a request that was answered keeps all of it.
    fn is_met(&self, timeline: &Timeline) -> bool {
        let within = |most: Option<f64>, found: Option<f64>| {
            most.is_none_or(|most| found.is_none_or(|found| 1e3 * found <= most))
        };
        within(self.ttft_ms, timeline.ttft())
            && within(self.tpot_ms, timeline.tpot())
            && within(self.e2e_ms, Some(timeline.e2e()))
    }
}

/// How some numbers are spread.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Percentiles {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
}

impl Percentiles {
    /// Of `values`, each percentile being one of them (nearest rank); `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let rank = |percent: usize| sorted[(percent * count).div_ceil(100).max(1) - 1];
        (count > 0).then(|| Percentiles {
            mean: sorted.iter().sum::<f64>() / count as f64,
            p50: rank(50),
            p90: rank(90),
            p95: rank(95),
            p99: rank(99),
        })
    }
}

/// What many requests say together. Requests that failed count as failed, and their tokens do not
/// count.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// The first one's reason.
    pub first_error: Option<String>,
    /// From the first request sent to the last one's end.
    pub seconds: f64,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Those of them that were in a cache.
    pub cached_tokens: usize,
    /// Tokens of the answers.
    pub output_tokens: usize,
    /// Time to first token, milliseconds.
    pub ttft_ms: Option<Percentiles>,
    /// Time per output token after the first, milliseconds.
    pub tpot_ms: Option<Percentiles>,
    /// Inter-token latency, milliseconds.
    pub itl_ms: Option<Percentiles>,
    /// End to end, milliseconds.
    pub e2e_ms: Option<Percentiles>,
    /// Answers that met the goal.
    pub good: usize,
}

impl Summary {
    /// Sums up `timelines`.
    pub fn new(timelines: &[Timeline], goal: &Goal) -> Self {
        let answered = || timelines.iter().filter(|timeline| timeline.error.is_none());
        let sent = timelines.iter().map(|timeline| timeline.sent).fold(f64::INFINITY, f64::min);
        let ended = timelines.iter().map(|timeline| timeline.ended).fold(0.0, f64::max);
        let milliseconds = |values: Vec<f64>| Percentiles::of(values.iter().map(|s| 1e3 * s));
        Summary {
            answered: answered().count(),
            failed: timelines.len() - answered().count(),
            first_error: timelines.iter().find_map(|timeline| timeline.error.clone()),
            seconds: (ended - sent).max(0.0),
            prompt_tokens: answered().map(|timeline| timeline.prompt_tokens).sum(),
            cached_tokens: answered().map(|timeline| timeline.cached_tokens).sum(),
            output_tokens: answered().map(|timeline| timeline.output_tokens).sum(),
            ttft_ms: milliseconds(answered().filter_map(Timeline::ttft).collect()),
            tpot_ms: milliseconds(answered().filter_map(Timeline::tpot).collect()),
            itl_ms: milliseconds(answered().flat_map(Timeline::itl).collect()),
            e2e_ms: milliseconds(answered().map(Timeline::e2e).collect()),
            good: answered().filter(|timeline| goal.is_met(timeline)).count(),
        }
    }

    /// Of the answers.
    pub fn output_tokens_per_second(&self) -> f64 {
        self.per_second(self.output_tokens)
    }

    /// Of prompts and answers.
    pub fn total_tokens_per_second(&self) -> f64 {
        self.per_second(self.prompt_tokens + self.output_tokens)
    }

    /// Requests that were answered.
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.answered)
    }

    /// Requests that were answered and met the goal.
    pub fn goodput(&self) -> f64 {
        self.per_second(self.good)
    }

    fn per_second(&self, count: usize) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(sent: f64, arrivals: &[f64]) -> Timeline {
        Timeline {
            sent,
            arrivals: arrivals.iter().map(|at| (*at, 1)).collect(),
            ended: arrivals.last().copied().unwrap_or(sent),
            prompt_tokens: 10,
            output_tokens: arrivals.len(),
            ..Timeline::default()
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values = || (1..=200).rev().map(f64::from);
        let found = Percentiles::of(values()).unwrap();
        assert_eq!(
            found,
            Percentiles { mean: 100.5, p50: 100.0, p90: 180.0, p95: 190.0, p99: 198.0 }
        );
        assert_eq!(Percentiles::of([7.0]).unwrap().p99, 7.0);
        assert_eq!(Percentiles::of([]), None);
    }

    #[test]
    fn the_first_token_is_not_part_of_the_time_per_token() {
        let one = timeline(1.0, &[3.0, 4.0, 6.0]);
        assert_eq!((one.ttft(), one.tpot(), one.e2e()), (Some(2.0), Some(1.5), 5.0));
        assert_eq!(one.itl().collect::<Vec<_>>(), [1.0, 2.0]);
        // Five tokens that came in three chunks.
        let five = Timeline { output_tokens: 5, ..one };
        assert_eq!(five.tpot(), Some(0.75));
        assert_eq!(timeline(1.0, &[3.0]).tpot(), None);
        assert_eq!(timeline(1.0, &[]).ttft(), None);
    }

    #[test]
    fn what_failed_counts_as_failed_only() {
        let failed = Timeline { error: Some("503".into()), ..timeline(0.5, &[9.0, 10.0]) };
        let all = [timeline(1.0, &[3.0, 4.0]), timeline(2.0, &[3.0, 5.0]), failed];
        let goal = Goal { ttft_ms: Some(1500.0), ..Goal::default() };
        let summary = Summary::new(&all, &goal);
        assert_eq!((summary.answered, summary.failed, summary.good), (2, 1, 1));
        assert_eq!((summary.output_tokens, summary.prompt_tokens), (4, 20));
        assert_eq!(summary.seconds, 9.5);
        assert_eq!(summary.ttft_ms.unwrap().mean, 1500.0);
        assert_eq!(summary.first_error.as_deref(), Some("503"));
        assert_eq!(Summary::new(&[], &goal), Summary::default());
    }
}
