//! Spans of requests for a collector of OpenTelemetry, over OTLP in HTTP.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::HeaderMap;
use glm_runtime::Timings;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// Time in which a collector has to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans go.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

impl Traces {
    /// Sends spans to `{endpoint}/v1/traces`, in batches, on a thread of its own.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub(crate) fn new(endpoint: &str) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(config.into()))
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name("glm")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("glm");
        Ok(Traces { provider, tracer })
    }

    /// The span of an answer that has ended now, with the names of OpenTelemetry's conventions for
    /// generative AI. `parent` is what the client's `traceparent` says.
    pub(crate) fn answer(
        &self,
        parent: &Context,
        model: &str,
        request_id: &str,
        took: Duration,
        ended: Result<(String, &Timings), String>,
    ) {
        let now = SystemTime::now();
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", "glm"),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("glm.request.id", request_id.to_owned()),
        ];
        let mut status = Status::Unset;
        match ended {
            Ok((finish, timings)) => {
                let count = |name: &'static str, count: usize| KeyValue::new(name, count as i64);
                let seconds = |name: &'static str, seconds: f64| KeyValue::new(name, seconds);
                attributes.extend([
                    KeyValue::new("gen_ai.response.finish_reasons", finish),
                    count("gen_ai.usage.input_tokens", timings.prompt_tokens),
                    count("gen_ai.usage.cache_read.input_tokens", timings.cached_tokens),
                    count("gen_ai.usage.output_tokens", timings.decode_tokens + 1),
                    count("glm.drafted_tokens", timings.drafted_tokens),
                    count("glm.accepted_tokens", timings.accepted_tokens),
                    seconds(
                        "gen_ai.server.time_to_first_token",
                        timings.time_to_first_token_seconds,
                    ),
                    seconds("glm.queue_seconds", timings.queue_seconds),
                    seconds("glm.prompt_seconds", timings.prompt_seconds),
                    seconds("glm.decode_seconds", timings.decode_seconds),
                ]);
            }
            Err(failure) => status = Status::error(failure),
        }
        let mut span = self
            .tracer
            .span_builder(format!("chat {model}"))
            .with_kind(SpanKind::Server)
            .with_start_time(now - took)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, parent);
        span.set_status(status);
        span.end_with_timestamp(now);
    }

    /// Sends what is left.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(TIMEOUT) {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// What a client's `traceparent` says.
pub(crate) fn parent(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

/// Speaks HTTP to a collector, on the exporter's thread.
#[derive(Debug)]
struct Collector(ureq::Agent);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, body.as_ref()))?;
        let (parts, mut body) = answer.into_parts();
        Ok(Response::from_parts(parts, Bytes::from(body.read_to_vec()?)))
    }
}
