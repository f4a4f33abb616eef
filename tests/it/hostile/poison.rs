//! What PostgreSQL takes for JSON and serde refuses.

use event_box::{BoxError, Consumer, Context, Event, EventBox, GroupError};
use event_box_tests::{Counted, PATIENCE, Running, TestLog};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "test.odd", partition_key = "key")]
struct Odd {
    key: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    any: serde_json::Value,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum Kind {
    #[default]
    Plain,
}

type Reports = mpsc::UnboundedSender<String>;

async fn counted(event: Counted, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(format!("{}{}", event.key, event.n))?)
}

async fn odd(event: Odd, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(serde_json::to_string(&event)?)?)
}

/// Each ends as a dead letter that says what is wrong and where; its neighbours of the same partition go out, and an edit mends it.
#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_only_postgresql_reads_become_dead_letters_beside_healthy_neighbours() {
    let deep = format!(r#"{{"key":"k","any":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let ignored = format!(r#"{{"key":"k","unknown":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let poison = [
        (deep.as_str(), "recursion limit exceeded"),
        (r#"{"key":"\ud800"}"#, "does not fit at `key`"),
        (r#"{"key":"k","any":"\udc00"}"#, "does not fit at `any`"),
        (r#"{"key":"k","any":1e999}"#, "number out of range"),
        (r#"{"key":"k","kind":"\u0000"}"#, "unknown variant `\u{FFFD}`"),
        (r#"{"key":"k","key":"k"}"#, "duplicate field `key`"),
        (r#"{"key":7}"#, "does not fit at `key`: invalid type: integer `7`, expected a string"),
        ("{}", "does not fit at `.`: missing field `key`"),
        ("null", "does not fit at `.`: invalid type: null"),
        ("[]", "invalid length 0"),
    ];
    let log = TestLog::new().await;
    let emit = "select event_box.emit('test.odd', $1::text::json, 'k')";
    let neighbour = async |n| log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n }).await.unwrap();
    for (n, (payload, _)) in poison.iter().enumerate() {
        neighbour(n as i64).await;
        sqlx::query(emit).bind(*payload).execute(&log.pool).await.unwrap();
    }
    sqlx::query(emit).bind(&ignored).execute(&log.pool).await.unwrap();
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(report).on(counted).on(odd).max_attempts(1);
    let running = Running::start(consumer.build().unwrap());
    let mut next = async || tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    for n in 0..poison.len() {
        assert_eq!(next().await, format!("k{n}"));
    }
    assert_eq!(
        next().await,
        r#"{"key":"k","kind":"Plain","any":null}"#,
        "what nobody reads may be as deep as it likes"
    );

    log.wait_until("select count(*) from event_box.parked where dead_at is not null", poison.len() as i64).await;
    let group = EventBox::new(log.pool.clone()).group("g");
    let letters = group.dead_letters().await.unwrap();
    assert_eq!(letters.len(), poison.len());
    for (letter, (payload, expected)) in letters.iter().zip(poison) {
        let error = letter.error.as_deref().unwrap();
        println!("{error}");
        assert!(error.contains(expected), "{payload}: {error}");
        assert!(error.len() < 2_000, "{} bytes", error.len());
    }
    for payload in ["", "{", "\"a\0\"", "{\"key\":\"k\"} ,"] {
        let error = group.edit(letters[0].sequence, payload).await.unwrap_err();
        assert!(matches!(error, GroupError::Payload { .. }), "{error:?}");
    }
    let mended = r#"{"key":"\u0000\uD83D\uDE00 '; --","any":"\\"}"#;
    assert_eq!(group.edit(letters[0].sequence, mended).await.unwrap().events, 1);
    assert_eq!(next().await, r#"{"key":"\u0000😀 '; --","kind":"Plain","any":"\\"}"#);
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.parked").await, poison.len() as i64 - 1);
    log.close().await;
}
