//! A number of streams at once against an engine, all read by one thread.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use futures_core::Stream;

use super::timeline::Timeline;
use crate::engine::{Engine, EventStream};
use crate::error::RequestError;
use crate::request::{Event, Request};
use crate::stats::Stats;

/// What came of [`drive`].
#[derive(Debug, Clone)]
pub struct Driven {
    /// One for each request, in the order in which they were sent.
    pub timelines: Vec<Timeline>,
    /// What the engine counted meanwhile.
    pub stats: Stats,
}

/// Sends `requests` in their order, `streams` of them at a time, and waits for all answers. `seen`
/// is told, after each look at the streams, how many tokens came since the last one; when it says
/// false the rest is cancelled, and what was answered until then is returned.
///
/// # Errors
/// [`RequestError`] of the first request that is refused. A request that fails on its way has its
/// error in its timeline.
pub fn drive(
    engine: &Engine,
    requests: Vec<Request>,
    streams: usize,
    seen: &mut dyn FnMut(usize) -> bool,
) -> Result<Driven, RequestError> {
    let before = engine.stats();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let began = Instant::now();
    let mut waiting: VecDeque<_> = requests.into_iter().enumerate().collect();
    let mut open: Vec<Open> = Vec::new();
    let mut timelines: Vec<Option<Timeline>> = vec![None; waiting.len()];
    loop {
        while open.len() < streams.max(1)
            && let Some((index, request)) = waiting.pop_front()
        {
            let timeline = Timeline {
                sent: began.elapsed().as_secs_f64(),
                prompt_tokens: request.prompt.len(),
                ..Timeline::default()
            };
            open.push(Open { index, stream: engine.submit(request)?, timeline });
        }
        if open.is_empty() {
            break;
        }
        let (mut tokens, mut heard) = (0, false);
        open.retain_mut(|one| {
            let now = began.elapsed().as_secs_f64();
            let (count, ended) = one.look(&mut context, now);
            tokens += count.unwrap_or(0);
            heard |= count.is_some() || ended;
            if ended {
                timelines[one.index] = Some(std::mem::take(&mut one.timeline));
            }
            !ended
        });
        if heard && !seen(tokens) {
            break;
        }
        if !heard {
            thread::park();
        }
    }
    drop(open);
    let stats = engine.stats().since(&before);
    Ok(Driven { timelines: timelines.into_iter().flatten().collect(), stats })
}

/// A request that is under way.
struct Open {
    index: usize,
    stream: EventStream,
    timeline: Timeline,
}

impl Open {
    /// Takes what is there: how many tokens, if anything was, and whether that was the end.
    fn look(&mut self, context: &mut Context<'_>, now: f64) -> (Option<usize>, bool) {
        let (mut tokens, mut heard, mut ended) = (0, false, false);
        while let Poll::Ready(event) = Pin::new(&mut self.stream).poll_next(context) {
            heard = true;
            match event {
                Some(Event::Token { .. }) => tokens += 1,
                Some(Event::Finished { timings, .. }) => {
                    self.timeline.cached_tokens = timings.cached_tokens;
                }
                Some(Event::Failed(failure)) => self.timeline.error = Some(failure.to_string()),
                Some(Event::Prompt { .. } | Event::PromptLogprobs(_)) => {}
                None => {
                    ended = true;
                    self.timeline.ended = now;
                    break;
                }
            }
        }
        if tokens > 0 {
            self.timeline.arrivals.push((now, tokens));
            self.timeline.output_tokens += tokens;
        }
        (heard.then_some(tokens), ended)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
