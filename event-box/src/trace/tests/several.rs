//! Deliveries of several events at once, by OpenTelemetry's own SDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    trace::{SpanId, SpanKind, Status, TracerProvider},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tokio::time::Instant;
use tracing::info_span;
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};
use uuid::Uuid;

use crate::{
    failure::Failure,
    headers::Headers,
    record::Record,
    trace::{processed, processing_all},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// An event whose emit was the span of this number.
fn record(sequence: i64, topic: &str, emit: Option<u64>) -> Record {
    let mut headers = Headers::default();
    if let Some(emit) = emit {
        headers.set("traceparent".to_owned(), format!("00-{TRACE}-{emit:016x}-01"));
    }
    Record {
        sequence,
        id: Uuid::now_v7(),
        topic: topic.to_owned(),
        version: 1,
        partition_key: None,
        payload: b"{}".to_vec(),
        headers,
        emitted_at: SystemTime::UNIX_EPOCH,
    }
}

/// The one span of a delivery of these events.
async fn delivery(records: &[Record], result: Result<(), Failure>) -> SpanData {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    let layer = layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
    let guard = tracing::subscriber::set_default(Registry::default().with(layer));
    let run: Vec<_> = records.iter().cloned().map(Arc::new).collect();
    let span = processing_all(&run, "g", 1, 7);
    let deadline = Instant::now() + Duration::from_secs(60);
    let _ = processed(span, deadline, async { info_span!("handler").in_scope(|| result) }).await;
    drop(guard);
    let mut spans = exporter.get_finished_spans().unwrap();
    spans.retain(|span| span.name.starts_with("process"));
    let [span] = <[SpanData; 1]>::try_from(spans).unwrap();
    span
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<&str, String> {
    pairs.iter().map(|pair| (pair.key.as_str(), pair.value.to_string())).collect()
}

/// The fields of the column "process of several" of docs/telemetry.md, in these cases.
fn documented(cases: &[&str]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| field |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| line.split('|').map(str::trim).collect());
    let found = rows.filter_map(|cells: Vec<_>| {
        let (field, when) = (cells[1].trim_matches('`'), cells[6]);
        let there = when.starts_with('`') || when == "always" || cases.contains(&when);
        (there && field != "level" && !field.starts_with("otel.")).then(|| field.to_owned())
    });
    found.collect()
}

#[tokio::test]
async fn a_delivery_of_several_events_links_each_and_continues_none() {
    let records =
        [record(1, "test.counted", Some(1)), record(2, "test.counted", None), record(3, "test.counted", Some(3))];
    let span = delivery(&records, Ok(())).await;
    assert_eq!(span.name, "process test.counted");
    assert_eq!(span.span_kind, SpanKind::Consumer);
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    assert_ne!(span.span_context.trace_id().to_string(), TRACE);
    assert_eq!(span.status, Status::Unset);
    let fields = attributes(&span.attributes);
    assert_eq!(fields.keys().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>(), documented(&["one topic"]));
    assert_eq!(fields["messaging.batch.message_count"], "3");
    assert_eq!(fields["messaging.destination.partition.id"], "7");
    assert_eq!(fields["messaging.consumer.group.name"], "g");

    let linked: Vec<_> = span.links.iter().map(|link| link.span_context.span_id()).collect();
    assert_eq!(linked, [SpanId::from(1), SpanId::from(3)]);
    let of_last = attributes(&span.links.iter().last().unwrap().attributes);
    let mut on_links = documented(&["on links"]);
    on_links.retain(|field| field.starts_with("messaging.message.") || field.contains(".event_box.message."));
    on_links.insert("messaging.destination.name".to_owned());
    assert_eq!(of_last.keys().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>(), on_links);
    assert_eq!(of_last["messaging.message.id"], records[2].id.to_string());
    assert_eq!(of_last["messaging.event_box.message.sequence"], "3");
    assert_eq!(of_last["messaging.event_box.message.delivery_attempt"], "1");
}

#[tokio::test]
async fn a_delivery_of_several_topics_has_no_destination() {
    let records = [record(1, "test.counted", None), record(2, "test.noted", None)];
    let span = delivery(&records, Err(Failure::Reject("out of order".into()))).await;
    assert_eq!(span.name, "process");
    assert_eq!(span.status, Status::error("out of order"));
    let fields = attributes(&span.attributes);
    assert_eq!(fields.keys().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>(), documented(&["failed"]));
    assert_eq!(fields["error.type"], "reject");
}
