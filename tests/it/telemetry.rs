//! The spans of docs/telemetry.md, compared with its table.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use event_box::{BoxError, Consumer, Context, Failure, testing::drain};
use event_box_tests::{Counted, Noted, PATIENCE, Running, TestLog, Traced};
use opentelemetry::{Value, trace::Status};
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

fn counted(key: &str) -> Counted {
    Counted { key: key.to_owned(), n: 1 }
}

/// One row of the table, its cells by the table's head.
type Row = BTreeMap<String, String>;

/// The first table of docs/telemetry.md.
fn table() -> Vec<Row> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md");
    let text = std::fs::read_to_string(file).unwrap();
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| field |"));
    let head = cells(lines.next().expect("a table of fields"));
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|line| head.iter().cloned().zip(cells(line)).collect()).collect()
}

/// That a span has the fields of a column, as it is in the cases given, and no others.
#[track_caller]
fn assert_documented(span: &SpanData, column: &str, cases: &[&str]) {
    let attributes: BTreeMap<_, _> =
        span.attributes.iter().map(|pair| (pair.key.as_str(), pair.value.clone())).collect();
    let mut documented = BTreeSet::new();
    for row in table() {
        let field = row["field"].trim_matches('`');
        let when = row[column].as_str();
        let constant = when.strip_prefix('`').and_then(|when| when.strip_suffix('`'));
        if field == "otel.kind" {
            assert_eq!(format!("{:?}", span.span_kind).to_lowercase(), constant.expect("a kind"), "{span:#?}");
        }
        if field.starts_with("otel.") || !(constant.is_some() || when == "always" || cases.contains(&when)) {
            continue;
        }
        let value = attributes.get(field).unwrap_or_else(|| panic!("`{field}` is missing: {span:#?}"));
        let typed = match value {
            Value::I64(_) => "int",
            Value::String(_) => "string",
            _ => "another",
        };
        assert!(row["type, unit"].starts_with(typed) || field == "level", "{field}: {value:?}");
        assert!(constant.is_none_or(|constant| value.as_str() == constant), "{field}: {value:?}");
        documented.insert(field.to_owned());
    }
    assert!(documented.len() >= 5, "the table is there");
    assert_eq!(attributes.keys().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>(), documented, "{span:#?}");
    assert_eq!(matches!(span.status, Status::Error { .. }), cases.contains(&"failed"), "{span:#?}");
}

/// An attribute as text.
#[track_caller]
fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == name);
    found.unwrap_or_else(|| panic!("no `{name}`: {span:#?}")).value.as_str().into_owned()
}

#[tokio::test]
async fn emits_are_as_documented() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let id = log.outbox.emit(&log.pool, &counted("k")).await.unwrap();
    log.outbox.emit_all(&log.pool, &[Noted { text: "a".to_owned() }, Noted { text: "b".to_owned() }]).await.unwrap();
    let one = traced.one("emit test.counted");
    assert_documented(&one, "emit of one", &[]);
    assert_eq!(attribute(&one, "messaging.message.id"), id.to_string());
    assert_eq!(attribute(&one, "messaging.destination.name"), "test.counted");
    let several = traced.one("emit test.noted");
    assert_documented(&several, "emit of several", &["one topic"]);
    assert_eq!(attribute(&several, "messaging.batch.message_count"), "2");

    let mut connection = log.pool.acquire().await.unwrap();
    log.outbox.copy(&mut connection, &[counted("a"), counted("b"), counted("c")]).await.unwrap();
    let [_, copied] = traced.named("emit test.counted").try_into().unwrap();
    assert_documented(&copied, "emit of several", &["one topic"]);
    assert_eq!(attribute(&copied, "messaging.batch.message_count"), "3");

    let none: [Noted; 0] = [];
    log.outbox.emit_all(&log.pool, &none).await.unwrap();
    log.outbox.copy(&mut connection, &none).await.unwrap();
    log.outbox.emit(&log.pool, &counted("")).await.unwrap_err();
    log.outbox.emit_all(&log.pool, &[counted("")]).await.unwrap_err();
    assert_eq!(traced.spans().len(), 3, "nothing was sent, nothing is told");
    drop(connection);
    log.close().await;
}

#[derive(event_box::Event)]
enum Either {
    Counted(Counted),
    Noted(Noted),
}

#[tokio::test]
async fn an_emit_of_several_topics_has_no_destination() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let mixed = [Either::Counted(counted("k")), Either::Noted(Noted { text: "a".to_owned() })];
    log.outbox.emit_all(&log.pool, &mixed).await.unwrap();
    assert_documented(&traced.one("emit"), "emit of several", &[]);
    log.close().await;
}

#[tokio::test]
async fn an_emit_that_fails_says_how() {
    let log = TestLog::empty().await;
    let traced = Traced::here();
    log.outbox.emit(&log.pool, &counted("k")).await.unwrap_err();
    log.outbox.emit_all(&log.pool, &[Noted { text: "a".to_owned() }]).await.unwrap_err();
    let one = traced.one("emit test.counted");
    assert_documented(&one, "emit of one", &["failed"]);
    assert_eq!(attribute(&one, "error.type"), "42P01");
    assert_documented(&traced.one("emit test.noted"), "emit of several", &["failed", "one topic"]);

    log.pool.close().await;
    log.outbox.emit(&log.pool, &Noted { text: "b".to_owned() }).await.unwrap_err();
    assert_eq!(attribute(&traced.named("emit test.noted")[1], "error.type"), "_OTHER");
    log.close().await;
}

async fn fail(event: Counted, cx: &mut Context<'_>) -> Result<(), Failure> {
    match event.key.as_str() {
        "retry" => Err(Failure::Retry("out of luck".into())),
        "reject" => Err(Failure::Reject("out of order".into())),
        "unavailable" => Err(Failure::Unavailable("out of office".into())),
        "panic" => panic!("out of mind"),
        "timeout" => std::future::pending().await,
        "snooze" if cx.sequence() > 0 => Err(Failure::Snooze(Duration::from_secs(1))),
        _ => Ok(()),
    }
}

/// The only delivery there is of an event with this key, and what it says of itself.
async fn delivered(key: &str, max_attempts: u32) -> SpanData {
    let log = TestLog::new().await;
    let id = log.outbox.emit(&log.pool, &counted(key)).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g").on(fail).max_attempts(max_attempts);
    let consumer = consumer.handler_timeout(Duration::from_millis(100)).build().unwrap();
    let traced = Traced::here();
    let drained = drain(&consumer).await.unwrap();
    let mut spans = traced.named("process test.counted");
    assert!(!spans.is_empty(), "{drained:?}: {:#?}", traced.spans());
    let span = spans.swap_remove(0);
    assert_eq!(attribute(&span, "messaging.message.id"), id.to_string());
    log.close().await;
    span
}

#[tokio::test]
async fn a_delivery_is_as_documented() {
    let span = delivered("handled", 1).await;
    assert_documented(&span, "process of one", &[]);
    assert_eq!(span.status, Status::Unset);
    assert_eq!(attribute(&span, "messaging.destination.name"), "test.counted");
    assert_eq!(attribute(&span, "messaging.consumer.group.name"), "g");
    assert_eq!(attribute(&span, "messaging.event_box.message.sequence"), "1");
    assert_eq!(attribute(&span, "messaging.event_box.message.delivery_attempt"), "1");
}

#[tokio::test]
async fn a_delivery_names_the_partition_of_its_event() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &counted("some key")).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g").on(fail).build().unwrap();
    let traced = Traced::here();
    assert_eq!(drain(&consumer).await.unwrap().handled, 1);
    let partition = log.number("select partition::bigint from event_box.events").await;
    let span = traced.one("process test.counted");
    assert_eq!(attribute(&span, "messaging.destination.partition.id"), partition.to_string());
    log.close().await;
}

#[tokio::test]
async fn a_delivery_that_fails_says_how() {
    let cases = [
        ("retry", "out of luck"),
        ("reject", "out of order"),
        ("unavailable", "out of office"),
        ("panic", "the handler panicked: out of mind"),
        ("timeout", "the handler took longer than its time-out"),
    ];
    for (kind, description) in cases {
        let span = delivered(kind, 1).await;
        assert_documented(&span, "process of one", &["failed"]);
        assert_eq!(attribute(&span, "error.type"), kind);
        assert_eq!(span.status, Status::error(description));
    }
}

#[tokio::test]
async fn a_snooze_is_no_failure() {
    assert_documented(&delivered("snooze", 1).await, "process of one", &[]);
}

/// The attempts of one event are counted, each in a span of its own.
#[tokio::test]
async fn every_attempt_has_a_span() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &counted("retry")).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g").on(fail).max_attempts(3).build().unwrap();
    let traced = Traced::here();
    assert_eq!(drain(&consumer).await.unwrap().dead_letters.len(), 1);
    let spans = traced.named("process test.counted");
    let attempts: Vec<_> =
        spans.iter().map(|span| attribute(span, "messaging.event_box.message.delivery_attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    log.close().await;
}

type Began = mpsc::UnboundedSender<()>;

async fn never_end(_: Counted, cx: &mut Context<'_, Began>) -> Result<(), BoxError> {
    cx.state().send(())?;
    std::future::pending().await
}

#[tokio::test]
async fn a_delivery_that_the_shutdown_cuts_off_says_so() {
    let log = TestLog::new().await;
    let traced = Traced::here();
    let (began, mut begun) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(began).on(never_end);
    let running = Running::start(consumer.shutdown_timeout(Duration::from_millis(10)).build().unwrap());
    log.outbox.emit(&log.pool, &counted("k")).await.unwrap();
    tokio::time::timeout(PATIENCE, begun.recv()).await.unwrap().unwrap();
    running.stop().await.unwrap();
    let span = traced.one("process test.counted");
    assert_documented(&span, "process of one", &["failed"]);
    assert_eq!(attribute(&span, "error.type"), "cancelled");
    log.close().await;
}
