use std::{error::Error, time::Duration};

use event_box::EmitError;
use event_box_tests::TestLog;
use sqlx::PgConnection;

use super::events::Raw;

fn raw(payload: impl Into<Vec<u8>>) -> Raw {
    Raw { topic: "raw", key: None, payload: payload.into() }
}

/// The error as its reader has it, causes and all.
fn told(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What each way says of an event, in a transaction of its own.
async fn by_every_way(log: &TestLog, connection: &mut PgConnection, event: &Raw) -> Vec<(&'static str, EmitError)> {
    let good = raw("1");
    // More than COPY sends at once, before and after the bad one.
    let large = raw(format!("\"{}\"", "l".repeat(900_000)));
    let outbox = &log.outbox;
    let mut errors = vec![
        ("emit", outbox.emit(&mut *connection, event).await.map(drop).unwrap_err()),
        ("delay", outbox.emit(&mut *connection, event).delay(Duration::from_secs(1)).await.map(drop).unwrap_err()),
        ("emit_all", outbox.emit_all(&mut *connection, [&good, event]).await.map(drop).unwrap_err()),
    ];
    for events in [[&good, event], [&large, event], [event, &large]] {
        errors.push(("copy", outbox.copy(connection, events).await.map(drop).unwrap_err()));
    }
    errors
}

/// A hand-written event may answer anything; PostgreSQL looks at it.
#[tokio::test]
async fn payloads_that_are_no_json_are_refused_and_leave_nothing() {
    let log = TestLog::new().await;
    let mut connection = log.pool.acquire().await.unwrap();
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let cases: [(&[u8], &str); 11] = [
        (b"", "invalid input syntax for type json"),
        (b"{", "invalid input syntax for type json"),
        (b"[1,]", "invalid input syntax for type json"),
        (b"1 2", "invalid input syntax for type json"),
        (b"NaN", "invalid input syntax for type json"),
        (b"'single'", "invalid input syntax for type json"),
        (b"\"a\nb\"", "invalid input syntax for type json"),
        (br#""\u00""#, "invalid input syntax for type json"),
        (b"\"\xff\"", "invalid byte sequence for encoding \"UTF8\": 0xff"),
        (b"\"a\0b\"", "invalid byte sequence for encoding \"UTF8\": 0x00"),
        (deep.as_bytes(), "stack depth limit exceeded"),
    ];
    for (payload, expected) in cases {
        let start = String::from_utf8_lossy(&payload[..payload.len().min(20)]).into_owned();
        for (way, error) in by_every_way(&log, &mut connection, &raw(payload)).await {
            let told = told(&error);
            assert!(matches!(error, EmitError::Database(_)) && told.contains(expected), "{way}, {start}: {told}");
        }
    }
    assert_eq!(
        log.number("select (select count(*) from event_box.events) + (select count(*) from event_box.delayed)").await,
        0
    );
    // The connection has survived all of it.
    log.outbox.copy(&mut connection, [&raw("1")]).await.unwrap();
    drop(connection);
    log.close().await;
}

/// What Rust refuses itself, by every way and before anything is sent: the transaction goes on.
#[tokio::test]
async fn limits_are_told_by_name_before_anything_is_sent() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    let long: &'static str = Box::leak("\u{e9}".repeat(128).into_boxed_str());
    let key = |key: &str| Raw { key: Some(key.to_owned()), ..raw("1") };
    let cases = [
        (Raw { topic: "", ..raw("1") }, "`` (0 bytes) is not a topic: use 1 to 255 bytes without NUL"),
        (Raw { topic: long, ..raw("1") }, "(256 bytes) is not a topic"),
        (Raw { topic: "a\0b", ..raw("1") }, "(3 bytes) is not a topic"),
        (key(""), "the `raw` event's partition key has 0 bytes: use 1 to 512 bytes without NUL"),
        (key(&"\u{1F600}".repeat(129)), "the `raw` event's partition key has 516 bytes"),
        (key("a\0b"), "the `raw` event's partition key has 3 bytes: use 1 to 512 bytes without NUL"),
        (raw(vec![b'1'; 1024 * 1024 + 1]), "the `raw` event's payload has 1048577 bytes, the limit is 1048576"),
    ];
    for (event, expected) in cases {
        for (way, error) in by_every_way(&log, &mut tx, &event).await {
            assert!(told(&error).contains(expected), "{way}: {error}");
        }
    }
    for name in ["", "a b", "a\0b", "\u{e4}", "'", "\"", &"h".repeat(129)] {
        let outbox = log.outbox.clone().header(name, "");
        let expected = format!("`{name}` on the `raw` event is not a header name");
        let errors = [
            outbox.emit(&mut *tx, &raw("1")).await.unwrap_err(),
            outbox.emit_all(&mut *tx, [&raw("1")]).await.unwrap_err(),
            outbox.copy(&mut tx, [&raw("1")]).await.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.to_string().starts_with(&expected)), "{errors:?}");
    }
    log.outbox.emit(&mut *tx, &raw("1")).await.expect("the transaction lives");
    tx.commit().await.unwrap();
    log.close().await;
}

/// As a trigger or another language is told.
#[tokio::test]
async fn the_sql_functions_refuse_by_name() {
    let log = TestLog::new().await;
    for (arguments, expected) in [
        ("e't\\x01', '{}', ''", "partition_key_length"),
        ("repeat('\u{e9}', 128), '{}'", "topic_length"),
        ("'t', '{}', repeat('\u{1F600}', 129)", "partition_key_length"),
        ("'t', '{}', 'k', '[\"a\"]'", "headers_object"),
        ("'t', '{}', 'k', 'null'", "headers_object"),
        ("'t', '{'", "invalid input syntax for type json"),
        ("'t', '\"\\u00g0\"'", "invalid input syntax for type json"),
        ("'t', (repeat('[', 200000) || repeat(']', 200000))::json", "stack depth limit exceeded"),
        ("'t', null", "null value in column \"payload\""),
        ("null, '{}'", "null value in column \"topic\""),
    ] {
        for function in ["emit(", "emit_at(now(), "] {
            let call = sqlx::AssertSqlSafe(format!("select event_box.{function}{arguments})"));
            let error = sqlx::query(call).execute(&log.pool).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{function}{arguments}: {error}");
        }
    }
    log.close().await;
}
