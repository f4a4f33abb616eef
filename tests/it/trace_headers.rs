//! Which trace context stands in an event's headers, and what a delivery makes of it.

use event_box::{BoxError, Consumer, Context, testing::drain};
use event_box_tests::{Logged, Noted, TestLog, Traced};
use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::SpanData;
use sqlx::PgPool;
use tracing::{Instrument, Level, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// The two, as a header.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn noted() -> Noted {
    Noted { text: "a".to_owned() }
}

async fn ignore(_: Noted, _: &mut Context<'_>) -> Result<(), BoxError> {
    info_span!("handled").in_scope(|| Ok(()))
}

/// Hands every event to a handler.
async fn deliver(pool: &PgPool, events: usize) {
    let consumer = Consumer::builder(pool, "g").on(ignore).build().unwrap();
    assert_eq!(drain(&consumer).await.unwrap().handled, events);
}

/// Those of every event, in order.
async fn headers(pool: &PgPool) -> Vec<Option<String>> {
    sqlx::query_scalar("select headers::text from event_box.events order by sequence").fetch_all(pool).await.unwrap()
}

/// As W3C writes it.
fn traceparent(span: &SpanData) -> String {
    format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
}

/// A context of another process, with a state.
fn remote() -> OtelContext {
    let state = TraceState::from_key_value([("vendor", "one")]).unwrap();
    let (trace, span) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex(PARENT).unwrap());
    OtelContext::new().with_remote_span_context(SpanContext::new(trace, span, TraceFlags::SAMPLED, true, state))
}

#[tokio::test]
async fn without_opentelemetry_there_is_no_header() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &noted()).await.unwrap();
    let logged = Logged::here();
    async { log.outbox.emit(&log.pool, &noted()).await.unwrap() }.instrument(info_span!("import")).await;
    log.outbox.emit_all(&log.pool, &[noted()]).await.unwrap();
    log.outbox.copy(&mut log.pool.acquire().await.unwrap(), &[noted()]).await.unwrap();
    assert_eq!(headers(&log.pool).await, [None, None, None, None]);
    deliver(&log.pool, 4).await;
    drop(logged);
    log.close().await;
}

/// Where nobody listens to our spans, the current one stands for them, and the deliveries have none.
#[tokio::test]
async fn without_our_spans_the_current_one_is_recorded() {
    let log = TestLog::new().await;
    let traced =
        Traced::filtered(Targets::new().with_default(Level::INFO).with_target("event_box::trace", Level::ERROR));
    log.outbox.emit(&log.pool, &noted()).await.unwrap();
    async { log.outbox.emit(&log.pool, &noted()).await.unwrap() }.instrument(info_span!("import")).await;
    let traceparent = traceparent(&traced.one("import"));
    assert_eq!(headers(&log.pool).await, [None, Some(format!(r#"{{"traceparent":"{traceparent}"}}"#))]);
    deliver(&log.pool, 2).await;
    let names: Vec<_> = traced.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["import", "handled", "handled"]);
    log.close().await;
}

/// An application that uses OpenTelemetry without `tracing`.
#[tokio::test]
async fn opentelemetrys_own_context_is_recorded() {
    let log = TestLog::new().await;
    let attached = remote().attach();
    log.outbox.emit(&log.pool, &noted()).await.unwrap();
    drop(attached);
    let expected = format!(r#"{{"traceparent":"{TRACEPARENT}","tracestate":"vendor=one"}}"#);
    assert_eq!(headers(&log.pool).await, [Some(expected)]);
    log.close().await;
}

#[tokio::test]
async fn an_emit_outside_of_any_span_begins_a_trace() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    log.outbox.emit(&log.pool, &noted()).await.unwrap();
    deliver(&log.pool, 1).await;
    let (emit, process) = (traced.one("emit test.noted"), traced.one("process test.noted"));
    assert_eq!(emit.parent_span_id, SpanId::INVALID);
    assert_eq!(process.parent_span_id, emit.span_context.span_id());
    assert_eq!(headers(&log.pool).await, [Some(format!(r#"{{"traceparent":"{}"}}"#, traceparent(&emit)))]);
    log.close().await;
}

#[tokio::test]
async fn the_span_that_counts_is_the_one_it_is_awaited_in() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let emit = info_span!("build").in_scope(|| log.outbox.emit(&log.pool, &noted()).into_future());
    emit.instrument(info_span!("send")).await.unwrap();
    assert_eq!(traced.one("emit test.noted").parent_span_id, traced.one("send").span_context.span_id());
    log.close().await;
}

/// The span a consumer runs in lasts as long as the process: no delivery belongs to its trace.
#[tokio::test]
async fn a_delivery_is_no_part_of_what_the_consumer_runs_in() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &noted()).await.unwrap();
    log.outbox.emit(&log.pool, &noted()).header("traceparent", TRACEPARENT).await.unwrap();
    let traced = Traced::here();
    deliver(&log.pool, 2).instrument(info_span!("service")).await;
    let service = traced.one("service").span_context;
    let mut processes = traced.named("process test.noted");
    processes.sort_by_key(|span| span.parent_span_id != SpanId::INVALID);
    let [root, continued] = processes.as_slice() else { panic!("{processes:?}") };
    assert_eq!(root.parent_span_id, SpanId::INVALID);
    assert_ne!(root.span_context.trace_id(), service.trace_id());
    assert_eq!(continued.span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
    assert_eq!(continued.parent_span_id, SpanId::from_hex(PARENT).unwrap());
    for span in processes {
        assert!(span.links.iter().any(|link| link.span_context == service), "{:?}", span.links);
    }
    log.close().await;
}

/// Every form that the specification forbids, and what SQL can put there.
#[tokio::test]
async fn a_malformed_traceparent_is_not_there() {
    let zeros = "0".repeat(32);
    let malformed = [
        String::new(),
        "nonsense".to_owned(),
        "ü".to_owned(),
        format!("00-{TRACE}-{PARENT}"),
        format!("00-{TRACE}-{PARENT}-1"),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("0-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", &TRACE[1..]),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{zeros}-{PARENT}-01"),
        format!("00-{TRACE}-{}-01", &zeros[..16]),
        format!("00-{TRACE}-+{}-01", &PARENT[1..]),
        format!(" {TRACEPARENT}"),
    ];
    let log = TestLog::new().await;
    for header in &malformed {
        log.outbox.emit(&log.pool, &noted()).header("traceparent", header).await.unwrap();
    }
    log.sql(r#"select event_box.emit('test.noted', '{"text": "a"}', headers => '{"traceparent": {"a": 1}}')"#).await;
    let traced = Traced::here();
    deliver(&log.pool, malformed.len() + 1).await;
    for span in traced.named("process test.noted") {
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        assert!(span.links.is_empty(), "{span:#?}");
    }
    log.close().await;
}

/// One of a later version may have more fields; a state that cannot be read is no reason to lose the trace.
#[tokio::test]
async fn what_can_be_understood_is_followed() {
    let log = TestLog::new().await;
    let followed = [
        (format!("01-{TRACE}-{PARENT}-01-more"), "vendor=one"),
        (format!("00-{TRACE}-{PARENT}-03"), "vendor=one"),
        (format!("00-{TRACE}-{PARENT}-01"), "no state"),
    ];
    for (traceparent, tracestate) in followed {
        let emit = log.outbox.emit(&log.pool, &noted()).header("traceparent", traceparent);
        emit.header("tracestate", tracestate).await.unwrap();
    }
    let by_sql = "select event_box.emit('test.noted', '{\"text\": \"a\"}', headers => json_build_object('traceparent', $1::text))";
    sqlx::query(by_sql).bind(TRACEPARENT).execute(&log.pool).await.unwrap();
    let traced = Traced::here();
    deliver(&log.pool, 4).await;
    let spans = traced.named("process test.noted");
    let mut states: Vec<_> = spans.iter().map(|span| span.span_context.trace_state().header()).collect();
    states.sort();
    assert_eq!(states, ["", "", "vendor=one", "vendor=one"]);
    for span in spans {
        assert_eq!(span.parent_span_id, SpanId::from_hex(PARENT).unwrap());
        assert!(span.span_context.is_sampled());
    }
    log.close().await;
}

/// And the emit's span says that it did not make the context.
#[tokio::test]
async fn a_callers_own_traceparent_wins() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let outbox = log.outbox.clone().header("traceparent", TRACEPARENT);
    let current = info_span!("import");
    // With a state, which is not the caller's.
    current
        .set_parent(remote().with_remote_span_context(SpanContext::new(
            TraceId::from(1),
            SpanId::from(2),
            TraceFlags::SAMPLED,
            true,
            TraceState::from_key_value([("vendor", "one")]).unwrap(),
        )))
        .unwrap();
    let emitted = async {
        log.outbox.emit(&log.pool, &noted()).header("traceparent", TRACEPARENT).await.unwrap();
        outbox.emit_all(&log.pool, &[noted()]).await.unwrap();
        outbox.copy(&mut log.pool.acquire().await.unwrap(), &[noted()]).await.unwrap();
    };
    emitted.instrument(current).await;
    let kept = Some(format!(r#"{{"traceparent":"{TRACEPARENT}"}}"#));
    assert_eq!(headers(&log.pool).await, [kept.clone(), kept.clone(), kept]);
    let emits = traced.named("emit test.noted");
    assert_eq!(emits.len(), 3);
    for emit in emits {
        assert_eq!(emit.span_kind, SpanKind::Client);
        assert_eq!(emit.parent_span_id, traced.one("import").span_context.span_id());
        assert_eq!(emit.links.iter().next().unwrap().span_context.span_id(), SpanId::from_hex(PARENT).unwrap());
    }
    deliver(&log.pool, 3).await;
    for span in traced.named("process test.noted") {
        assert_eq!(span.span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
        assert_eq!(span.parent_span_id, SpanId::from_hex(PARENT).unwrap());
    }
    log.close().await;
}

/// A state that the caller sets alone stays, beside the context that is recorded.
#[tokio::test]
async fn a_callers_own_tracestate_wins() {
    let log = TestLog::new().await;
    let attached = remote().attach();
    log.outbox.emit(&log.pool, &noted()).header("tracestate", "own=1").await.unwrap();
    drop(attached);
    let kept = format!(r#"{{"traceparent":"{TRACEPARENT}","tracestate":"own=1"}}"#);
    assert_eq!(headers(&log.pool).await, [Some(kept)]);
    log.close().await;
}
