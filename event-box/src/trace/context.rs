//! W3C Trace Context in an event's headers: <https://www.w3.org/TR/trace-context/>.

use std::str::FromStr;

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{TRACEPARENT, TRACESTATE};
use crate::{headers::Headers, record::Record};

/// Writes the span's context into the headers, or where it has none the current one.
pub(super) fn write(span: &Span, headers: &mut Headers) {
    let of = |context: &Context| Some(context.span().span_context().clone()).filter(SpanContext::is_valid);
    let current = || of(&Span::current().context()).or_else(|| Context::map_current(of));
    let Some(context) = of(&span.context()).or_else(current) else { return };
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags() & TraceFlags::SAMPLED);
    headers.set(TRACEPARENT.to_owned(), format!("00-{trace}-{span}-{flags:02x}"));
    let state = context.trace_state().header();
    if !state.is_empty() && headers.get(TRACESTATE).is_none() {
        headers.set(TRACESTATE.to_owned(), state);
    }
}

/// Takes the span out of the current trace and into the one that the headers name, or one of its own. What it was taken from is linked.
pub(super) fn detach(span: &Span, headers: Option<&Headers>) {
    if span.is_disabled() {
        return;
    }
    let parent =
        headers.and_then(read).map_or_else(Context::new, |context| Context::new().with_remote_span_context(context));
    // Without OpenTelemetry's layer there is nothing to set.
    let _ = span.set_parent(parent);
    span.add_link(Span::current().context().span().span_context().clone());
}

/// Links what the headers name; for one of several events, with what is that event's own.
pub(super) fn link(span: &Span, headers: &Headers, of: Option<(&Record, u32)>) {
    if span.is_disabled() {
        return;
    }
    let Some(context) = read(headers) else { return };
    let attributes = of.map(|(record, attempt)| {
        vec![
            KeyValue::new("messaging.destination.name", record.topic.clone()),
            KeyValue::new("messaging.message.id", record.id.to_string()),
            KeyValue::new("messaging.event_box.message.sequence", record.sequence),
            KeyValue::new("messaging.event_box.message.delivery_attempt", i64::from(attempt)),
        ]
    });
    span.add_link_with_attributes(context, attributes.unwrap_or_default());
}

/// The context that the headers name. What is not well-formed is not there.
fn read(headers: &Headers) -> Option<SpanContext> {
    let mut fields = headers.get(TRACEPARENT)?.split('-');
    let mut field = |length| {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        fields.next().filter(|field| field.len() == length && field.bytes().all(digit))
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    // Later versions may have more fields.
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = headers.get(TRACESTATE).and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, state)).filter(SpanContext::is_valid)
}
