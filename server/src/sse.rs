//! Streams of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use crate::limits;

/// What makes the events of a stream, one batch after another.
pub(crate) trait Source: Send + 'static {
    /// The next events; `None` after the last. An empty batch means that there was nothing to say.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Event>>> + Send;
}

/// An event without a name.
pub(crate) fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

/// An event with a name.
pub(crate) fn named(name: &str, value: &Value) -> Event {
    Event::default().event(name).data(value.to_string())
}

/// The answer that sends a source's events while they come, and a comment where none does for a
/// while. When the client goes away the source is dropped.
pub(crate) fn response(source: impl Source) -> Response {
    let state = (source, VecDeque::<Event>::new());
    let events = stream::unfold(state, |(mut source, mut waiting)| async move {
        loop {
            if let Some(event) = waiting.pop_front() {
                return Some((Ok::<_, Infallible>(event), (source, waiting)));
            }
            waiting.extend(source.next().await?);
        }
    });
    let keep_alive = KeepAlive::new().interval(limits::KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies would collect the events.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}
