//! The spans of docs/telemetry.md, and the trace context that travels in an event's headers.

use std::{fmt, sync::Arc};

use tokio::time::Instant;
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use crate::{
    failure::{Failure, Panicked, chain},
    headers::Headers,
    record::Record,
};

#[cfg(feature = "opentelemetry")]
mod context;
#[cfg(not(feature = "opentelemetry"))]
#[path = "trace/no_context.rs"]
mod context;

const TARGET: &str = "event_box::trace";
const SYSTEM: &str = "event_box";
pub(crate) const TRACEPARENT: &str = "traceparent";
#[cfg(feature = "opentelemetry")]
pub(crate) const TRACESTATE: &str = "tracestate";

/// The span of an emit of one event, child of the current one. Its context, where it has one, goes into the headers.
pub(crate) fn emitting(topic: &str, id: Uuid, headers: &mut Headers) -> Span {
    emit(Some(topic), Some(id), None, headers)
}

/// The span of an emit of several events, whose topic is given where they share one.
pub(crate) fn emitting_all(topic: Option<&str>, events: usize, headers: &mut Headers) -> Span {
    emit(topic, None, Some(events as i64), headers)
}

fn emit(topic: Option<&str>, id: Option<Uuid>, events: Option<i64>, headers: &mut Headers) -> Span {
    let given = headers.get(TRACEPARENT).is_some();
    let span = tracing::info_span!(
        target: TARGET,
        "emit",
        otel.name = %Name("emit", topic),
        // By the conventions a producer is who made the context that consumers continue.
        otel.kind = if given { "client" } else { "producer" },
        otel.status_code = Empty,
        otel.status_description = Empty,
        messaging.system = SYSTEM,
        messaging.operation.name = "emit",
        messaging.operation.type = "send",
        messaging.destination.name = topic,
        messaging.message.id = id.map(tracing::field::display),
        messaging.batch.message_count = events,
        error.type = Empty,
    );
    if given {
        context::link(&span, headers, None);
    } else {
        context::write(&span, headers);
    }
    span
}

/// Sends an emit's statement in its span, which says how it failed: by its SQLSTATE, or `_OTHER`.
pub(crate) async fn emitted<T>(
    span: Span,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let result = statement.instrument(span.clone()).await;
    if let Err(error) = &result {
        let code = error.as_database_error().and_then(|error| error.code());
        fail(&span, code.as_deref().unwrap_or("_OTHER"), &chain(error));
    }
    result
}

/// The span of one event's delivery: it continues the trace that the event's headers name, and begins one where they name none. It is no
/// part of the trace that the consumer runs in, which would never end; that one is linked.
pub(crate) fn processing(record: &Record, group: &str, attempt: u32, partition: i16) -> Span {
    let topic = record.topic.as_str();
    let span = tracing::info_span!(
        target: TARGET,
        "process",
        otel.name = %Name("process", Some(topic)),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        messaging.system = SYSTEM,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = topic,
        messaging.destination.partition.id = %partition,
        messaging.consumer.group.name = group,
        messaging.message.id = %record.id,
        messaging.event_box.message.sequence = record.sequence,
        messaging.event_box.message.delivery_attempt = i64::from(attempt),
        error.type = Empty,
    );
    context::detach(&span, Some(&record.headers));
    context::link(&span, &record.headers, None);
    span
}

/// The span of a run of events for a batch handler: it begins a trace of its own, and links that of each event.
pub(crate) fn processing_all(run: &[Arc<Record>], group: &str, attempt: u32, partition: i16) -> Span {
    let first = run.first().map(|record| record.topic.as_str());
    let topic = first.filter(|first| run.iter().all(|record| record.topic == *first));
    let span = tracing::info_span!(
        target: TARGET,
        "process",
        otel.name = %Name("process", topic),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        messaging.system = SYSTEM,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = topic,
        messaging.destination.partition.id = %partition,
        messaging.consumer.group.name = group,
        messaging.batch.message_count = run.len() as i64,
        error.type = Empty,
    );
    context::detach(&span, None);
    for record in run {
        context::link(&span, &record.headers, Some((record, attempt)));
    }
    span
}

/// Runs a delivery's handlers in its span, which says how they failed, or that they were given up: at the deadline, or earlier, by the
/// consumer's end.
pub(crate) async fn processed(
    span: Span,
    deadline: Instant,
    handlers: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut running = Running { span: &span, deadline, ended: false };
    let result = handlers.instrument(span.clone()).await;
    running.ended = true;
    if let Err(failure) = &result
        && let Some(kind) = kind(failure)
        && !span.is_disabled()
    {
        fail(&span, kind, &failure.to_string());
    }
    result
}

/// Notices where the handlers' future is dropped before it has ended.
struct Running<'s> {
    span: &'s Span,
    deadline: Instant,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        match Instant::now() >= self.deadline {
            true => fail(self.span, "timeout", "the handler took longer than its time-out"),
            false => fail(self.span, "cancelled", "the consumer ended while the handler ran"),
        }
    }
}

/// What `error.type` says; a snooze is no failure.
fn kind(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::Retry(error) if error.is::<Panicked>() => Some("panic"),
        Failure::Retry(_) => Some("retry"),
        Failure::Reject(_) => Some("reject"),
        Failure::Unavailable(_) => Some("unavailable"),
        Failure::Snooze(_) => None,
    }
}

fn fail(span: &Span, kind: &str, description: &str) {
    tracing::record_all!(
        span,
        otel.status_code = "ERROR",
        otel.status_description = description,
        error.type = kind,
    );
}

/// A span's name: the operation, and the topic where there is one.
struct Name<'t>(&'static str, Option<&'t str>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        self.1.map_or(Ok(()), |topic| write!(f, " {topic}"))
    }
}

#[cfg(test)]
mod tests;
