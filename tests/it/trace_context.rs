//! One trace, from an HTTP request to the last handler, by OpenTelemetry's own SDK.

use std::collections::HashMap;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{Next, from_fn},
    response::Response,
    routing::post,
};
use event_box::{BoxError, Consumer, Context, EmitError, Outbox, testing::drain};
use event_box_tests::{Counted, Noted, Running, TestLog, Traced};
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, SpanId, SpanKind, TraceContextExt, TraceId},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SpanData};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tracing::{Instrument, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// The two, as a header.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn counted() -> Counted {
    Counted { key: "k".to_owned(), n: 1 }
}

fn noted(text: &str) -> Noted {
    Noted { text: text.to_owned() }
}

struct HttpHeaders<'h>(&'h HeaderMap);

impl Extractor for HttpHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// What a service's tracing middleware does.
async fn trace_request(request: Request, next: Next) -> Response {
    let span = info_span!("POST /orders", otel.kind = "server");
    let _ = span.set_parent(TraceContextPropagator::new().extract(&HttpHeaders(request.headers())));
    next.run(request).instrument(span).await
}

async fn place(State(pool): State<PgPool>) -> Result<(), StatusCode> {
    let placed = async {
        let mut tx = pool.begin().await?;
        Outbox::new().emit(&mut *tx, &counted()).await?;
        Ok::<_, BoxError>(tx.commit().await?)
    };
    placed.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The service on a port of its own; sends it one request.
async fn request(pool: &PgPool, headers: &str) {
    let router = Router::new().route("/orders", post(place)).layer(from_fn(trace_request)).with_state(pool.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST /orders HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.abort();
}

async fn reserve(_: Counted, cx: &mut Context<'_>) -> Result<(), EmitError> {
    let emitted = async { Outbox::new().emit(cx, &noted("reserved")).await };
    emitted.instrument(info_span!("reserve")).await?;
    Ok(())
}

async fn ship(_: Noted, _: &mut Context<'_>) -> Result<(), BoxError> {
    info_span!("ship").in_scope(|| Ok(()))
}

/// Each is the parent of the next, in one trace.
#[track_caller]
fn assert_chain(spans: &[SpanData]) {
    for pair in spans.windows(2) {
        let [parent, child] = pair else { unreachable!() };
        assert_eq!(child.parent_span_id, parent.span_context.span_id(), "{} of {}", child.name, parent.name);
        assert_eq!(child.span_context.trace_id(), parent.span_context.trace_id(), "{}", child.name);
    }
}

/// From the request to the handler of what a handler emitted.
fn chain(traced: &Traced) -> Vec<SpanData> {
    let names = [
        "POST /orders",
        "emit test.counted",
        "process test.counted",
        "reserve",
        "emit test.noted",
        "process test.noted",
        "ship",
    ];
    names.map(|name| traced.one(name)).into()
}

async fn request_and_deliver(headers: &str) -> Vec<SpanData> {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let running = Running::start(Consumer::builder(&log.pool, "g").on(reserve).on(ship).build().unwrap());
    request(&log.pool, headers).await;
    traced.wait_for("process test.noted", 1).await;
    running.stop().await.unwrap();
    let chain = chain(&traced);
    log.close().await;
    chain
}

#[tokio::test]
async fn a_request_and_all_that_follows_are_one_trace() {
    let chain = request_and_deliver("").await;
    assert_chain(&chain);
    assert_eq!(chain[0].parent_span_id, SpanId::INVALID, "the request begins it");
    let kinds: Vec<_> = chain.iter().map(|span| span.span_kind.clone()).collect();
    let (producer, consumer) = (SpanKind::Producer, SpanKind::Consumer);
    let internal = SpanKind::Internal;
    assert_eq!(
        kinds,
        [SpanKind::Server, producer.clone(), consumer.clone(), internal.clone(), producer, consumer, internal]
    );
}

#[tokio::test]
async fn the_trace_of_a_requests_caller_goes_on() {
    let chain =
        request_and_deliver(&format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=one,other=two\r\n")).await;
    assert_chain(&chain);
    assert_eq!(chain[0].span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
    assert_eq!(chain[0].parent_span_id, SpanId::from_hex(PARENT).unwrap());
    for span in &chain {
        assert_eq!(span.span_context.trace_state().header(), "vendor=one,other=two", "{}", span.name);
    }
}

/// A delivery is linked to what it continues, as the conventions ask.
#[tokio::test]
async fn a_delivery_links_its_emit() {
    let chain = request_and_deliver("").await;
    let links: Vec<_> = chain[2].links.iter().map(|link| link.span_context.clone()).collect();
    let [linked] = links.as_slice() else { panic!("{links:?}") };
    assert_eq!(linked.span_id(), chain[1].span_context.span_id());
    assert!(linked.is_remote());
}

/// The decision not to sample travels too.
#[tokio::test]
async fn what_is_not_sampled_stays_so() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    request(&log.pool, &format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n")).await;
    let header = header(&log.pool, "traceparent").await.unwrap();
    assert!(header.starts_with(&format!("00-{TRACE}-")) && header.ends_with("-00"), "{header}");
    let consumer = Consumer::builder(&log.pool, "g").on(reserve).on(ship).build().unwrap();
    assert_eq!(drain(&consumer).await.unwrap().handled, 2);
    assert!(traced.spans().is_empty(), "{:#?}", traced.spans());
    log.close().await;
}

/// The newest event's.
async fn header(pool: &PgPool, name: &str) -> Option<String> {
    let header = sqlx::query_scalar("select headers ->> $1 from event_box.events order by sequence desc limit 1");
    header.bind(name).fetch_one(pool).await.unwrap()
}

/// What OpenTelemetry's own reader makes of the headers of every event, in order.
async fn contexts(pool: &PgPool) -> Vec<SpanContext> {
    let headers: Vec<sqlx::types::JsonValue> =
        sqlx::query_scalar("select headers from event_box.events order by sequence").fetch_all(pool).await.unwrap();
    let read = |headers| {
        let headers: HashMap<String, String> = serde_json::from_value(headers).unwrap();
        TraceContextPropagator::new().extract(&headers).span().span_context().clone()
    };
    headers.into_iter().map(read).collect()
}

#[tokio::test]
async fn emit_all_and_copy_carry_the_trace_too() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let outbox = log.outbox.clone().header("tenant", "acme");
    let emitted = async {
        outbox.emit_all(&log.pool, &[noted("a"), noted("b")]).await.unwrap();
        let mut connection = log.pool.acquire().await.unwrap();
        outbox.copy(&mut connection, &[noted("c"), noted("d")]).await.unwrap();
        assert_eq!(header(&log.pool, "tenant").await.as_deref(), Some("acme"));
    };
    emitted.instrument(info_span!("import")).await;
    let [all, copied] = traced.named("emit test.noted").try_into().unwrap();
    assert_chain(&[traced.one("import"), all.clone()]);
    assert_chain(&[traced.one("import"), copied.clone()]);
    let ids: Vec<_> = contexts(&log.pool).await.iter().map(|context| (context.trace_id(), context.span_id())).collect();
    let of = |span: &SpanData| (span.span_context.trace_id(), span.span_context.span_id());
    assert_eq!(ids, [of(&all), of(&all), of(&copied), of(&copied)]);

    let consumer = Consumer::builder(&log.pool, "g").on(ship).build().unwrap();
    assert_eq!(drain(&consumer).await.unwrap().handled, 4);
    let delivered = traced.named("process test.noted");
    let parents: Vec<_> = delivered.iter().map(|span| span.parent_span_id).collect();
    let of = |emit: &SpanData| parents.iter().filter(|parent| **parent == emit.span_context.span_id()).count();
    assert_eq!((of(&all), of(&copied)), (2, 2), "{parents:?}");
    log.close().await;
}
