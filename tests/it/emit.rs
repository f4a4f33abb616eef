use std::collections::BTreeMap;

use event_box::{EmitError, Event, Outbox};
use event_box_tests::{Counted, Noted, TestLog};
use serde::{Deserialize, Serialize};
use sqlx::{Acquire, Executor, PgPool};
use uuid::Uuid;

fn noted(text: &str) -> Noted {
    Noted { text: text.to_owned() }
}

async fn texts(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("select payload ->> 'text' from event_box.events order by sequence")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn commit_keeps_what_rollback_and_savepoint_rollback_undo() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &noted("kept")).await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    log.outbox.emit(&mut *savepoint, &noted("in a savepoint")).await.unwrap();
    savepoint.rollback().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    log.outbox.emit(&mut *savepoint, &noted("kept in a savepoint")).await.unwrap();
    savepoint.commit().await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &noted("rolled back")).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(texts(&log.pool).await, ["kept", "kept in a savepoint"]);
    log.close().await;
}

#[tokio::test]
async fn any_executor_will_do() {
    let log = TestLog::new().await;
    let outbox = &log.outbox;
    let mut connection = log.pool.acquire().await.unwrap();
    outbox.emit(&log.pool, &noted("pool")).await.unwrap();
    outbox.emit(&mut *connection, &noted("connection")).await.unwrap();
    outbox.emit_all(&log.pool, [&noted("all: pool")]).await.unwrap();
    outbox.emit_all(&mut *connection, &vec![noted("all: connection")]).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    outbox.emit(&mut *tx, &noted("transaction")).await.unwrap();
    outbox.emit_all(&mut *tx, &[noted("all: transaction")]).await.unwrap();
    outbox.copy(&mut tx, &[noted("copy: transaction")]).await.unwrap();
    tx.commit().await.unwrap();
    drop(connection);
    let expected =
        ["pool", "connection", "all: pool", "all: connection", "transaction", "all: transaction", "copy: transaction"];
    assert_eq!(texts(&log.pool).await, expected);
    log.close().await;
}

#[derive(Serialize, Deserialize, Event)]
struct Odd {
    second: String,
    first: f64,
    nested: BTreeMap<String, Option<i128>>,
}

#[tokio::test]
async fn payloads_are_stored_byte_for_byte_by_every_way() {
    let log = TestLog::new().await;
    let event = Odd {
        second: "\u{0}\u{1F600} \"quoted\"\n".to_owned(),
        first: 1e300,
        nested: BTreeMap::from([("n".to_owned(), Some(i128::MAX)), ("none".to_owned(), None)]),
    };
    let mut connection = log.pool.acquire().await.unwrap();
    log.outbox.emit(&mut *connection, &event).await.unwrap();
    log.outbox.emit_all(&mut *connection, [&event, &event]).await.unwrap();
    log.outbox.copy(&mut connection, [&event]).await.unwrap();
    let stored: Vec<String> =
        sqlx::query_scalar("select payload::text from event_box.events").fetch_all(&log.pool).await.unwrap();
    let expected = String::from_utf8(event.encode().unwrap()).unwrap();
    assert_eq!(stored, vec![expected; 4]);
    drop(connection);
    log.close().await;
}

#[tokio::test]
async fn an_emit_takes_an_id_headers_and_another_key() {
    let log = TestLog::new().await;
    let id = Uuid::now_v7();
    let event = Counted { key: "own".to_owned(), n: 1 };
    for _ in 0..2 {
        let emitted = log.outbox.emit(&log.pool, &event).id(id).await.unwrap();
        assert_eq!(emitted, id, "an id given twice makes two events");
    }
    let with_tenant = log.outbox.clone().header("tenant", "acme");
    with_tenant.emit(&log.pool, &event).header("trace", "1").header("tenant", "other").partition_key(7).await.unwrap();
    with_tenant.emit_all(&log.pool, [&event]).await.unwrap();
    log.outbox.emit(&log.pool, &event).partition_key(None::<String>).await.unwrap();
    let rows: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("select partition_key, headers::text from event_box.events order by sequence")
            .fetch_all(&log.pool)
            .await
            .unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        rows,
        [
            (text("own"), None),
            (text("own"), None),
            (text("7"), text(r#"{"tenant":"other","trace":"1"}"#)),
            (text("own"), text(r#"{"tenant":"acme"}"#)),
            (None, None),
        ]
    );
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select id from event_box.events order by sequence").fetch_all(&log.pool).await.unwrap();
    assert_eq!((ids[0], ids[1]), (id, id));
    assert!(ids[2..].iter().all(|id| id.get_version_num() == 7));
    log.close().await;
}

#[tokio::test]
async fn many_events_keep_their_order_and_ids() {
    let log = TestLog::new().await;
    let events: Vec<_> = (0..5_000).map(|n| Counted { key: format!("k{}", n % 7), n }).collect();
    let mut ids = log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let mut connection = log.pool.acquire().await.unwrap();
    ids.extend(log.outbox.copy(&mut connection, &events).await.unwrap());
    assert!(log.outbox.emit_all::<Counted>(&log.pool, []).await.unwrap().is_empty());
    assert!(log.outbox.copy::<Counted>(&mut connection, []).await.unwrap().is_empty());
    let stored: Vec<(Uuid, i64, String)> =
        sqlx::query_as("select id, (payload ->> 'n')::bigint, partition_key from event_box.events order by sequence")
            .fetch_all(&log.pool)
            .await
            .unwrap();
    let expected: Vec<_> =
        ids.into_iter().zip(events.iter().chain(&events)).map(|(id, event)| (id, event.n, event.key.clone())).collect();
    assert!(stored == expected);
    drop(connection);
    log.close().await;
}

#[derive(Debug, Serialize, Deserialize, Event)]
struct Unspeakable {
    names: BTreeMap<(i32, i32), String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Chosen {
    topic: &'static str,
    key: Option<String>,
}

impl Event for Chosen {
    const TOPICS: &'static [&'static str] = &["chosen"];
    fn topic(&self) -> &'static str {
        self.topic
    }
    fn partition_key(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.key.as_deref().map(Into::into)
    }
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
    fn decode(_: &str, _: i16, _: &[u8]) -> Result<Self, event_box::DecodeError> {
        unreachable!("it is never delivered")
    }
}

#[tokio::test]
async fn what_the_log_would_refuse_is_refused_before_anything_is_sent() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    let outbox = log.outbox.clone().max_payload_bytes(64);
    let chosen = |topic, key: &str| Chosen { topic, key: Some(key.to_owned()) };
    let long: &'static str = Box::leak("t".repeat(256).into_boxed_str());

    let error =
        outbox.emit(&mut *tx, &Unspeakable { names: BTreeMap::from([((1, 2), String::new())]) }).await.unwrap_err();
    assert!(matches!(error, EmitError::Encode { topic: "unspeakable", .. }), "{error:?}");
    let error = outbox.emit(&mut *tx, &noted(&"x".repeat(54))).await.unwrap_err();
    assert!(matches!(error, EmitError::PayloadTooLarge { bytes: 65, limit: 64, .. }), "{error:?}");
    assert!(error.to_string().contains("max_payload_bytes"), "{error}");
    for topic in ["", long, "a\0b"] {
        let error = outbox.emit(&mut *tx, &chosen(topic, "k")).await.unwrap_err();
        assert!(matches!(error, EmitError::Topic { .. }), "{error:?}");
    }
    for key in ["", "a\0b", &"k".repeat(513)] {
        let error = log.outbox.emit(&mut *tx, &chosen("chosen", key)).await.unwrap_err();
        assert!(matches!(error, EmitError::PartitionKey { topic: "chosen", .. }), "{error:?}");
    }
    for name in ["", "with blank", "colon:", "ümlaut", &"h".repeat(129)] {
        let error = outbox.emit(&mut *tx, &noted("")).header(name, "value").await.unwrap_err();
        assert!(matches!(&error, EmitError::HeaderName { name: named, .. } if named == name), "{error:?}");
    }
    let error = outbox.emit_all(&mut *tx, [&noted(""), &noted(&"x".repeat(64))]).await.unwrap_err();
    assert!(matches!(error, EmitError::PayloadTooLarge { .. }), "{error:?}");

    // The transaction lives, and the longest that is allowed goes through.
    log.outbox.emit(&mut *tx, &chosen(&long[1..], &"k".repeat(512))).header("h".repeat(128), "\u{0}").await.unwrap();
    outbox.emit(&mut *tx, &noted(&"x".repeat(53))).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.events").await, 2);
    log.close().await;
}

#[tokio::test]
async fn an_unmigrated_database_is_named_with_its_remedy() {
    let log = TestLog::empty().await;
    let mut connection = log.pool.acquire().await.unwrap();
    let errors = [
        log.outbox.emit(&log.pool, &noted("")).await.unwrap_err(),
        log.outbox.emit_all(&log.pool, [&noted("")]).await.unwrap_err(),
        log.outbox.copy(&mut connection, [&noted("")]).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, EmitError::NotMigrated { .. }), "{error:?}");
        assert!(error.to_string().contains("event_box::migrate(&pool)"), "{error}");
    }
    drop(connection);
    log.close().await;
}

#[tokio::test]
async fn the_tables_hold_the_limits_for_sql_and_copy_too() {
    let log = TestLog::new().await;
    let refused = [
        ("topic_length", "select event_box.emit('', '{}')"),
        ("topic_length", "select event_box.emit(repeat('t', 256), '{}')"),
        ("partition_key_length", "select event_box.emit('t', '{}', '')"),
        ("partition_key_length", "select event_box.emit('t', '{}', repeat('k', 513))"),
        ("headers_object", "select event_box.emit('t', '{}', null, '[1]')"),
        (
            "headers_object",
            "insert into event_box.events (id, topic, payload, headers) values (gen_random_uuid(), 't', '{}', '3')",
        ),
        ("version_positive", "select event_box.emit('t', '{}', version => 0::smallint)"),
    ];
    for (constraint, sql) in refused {
        let error = log.pool.execute(sql).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().constraint(), Some(constraint), "{sql}");
    }
    let mut connection = log.pool.acquire().await.unwrap();
    let mut copy = connection.copy_in_raw("copy event_box.events (id, topic, payload) from stdin").await.unwrap();
    copy.send(&b"0192f0c1-1111-7000-8000-000000000000\t\t{}\n"[..]).await.unwrap();
    let error = copy.finish().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("topic_length"));
    drop(connection);
    log.close().await;
}

/// The algorithm rests on it: a transaction has its xid before its first sequence. Where the sequence is exhausted `nextval` fails before
/// it would assign one, so that an xid afterwards can only have come first.
#[tokio::test]
async fn every_way_to_insert_takes_the_xid_before_the_sequence() {
    let log = TestLog::new().await;
    log.sql(
        "alter sequence event_box.events_sequence_seq maxvalue 2;
         select nextval('event_box.events_sequence_seq') from generate_series(1, 2)",
    )
    .await;
    let mut connection = log.pool.acquire().await.unwrap();
    let values = "(gen_random_uuid(), 't', '{}')";
    let inserts = [
        format!("insert into event_box.events (id, topic, payload) values {values}"),
        format!("insert into event_box.events (id, topic, payload) values {values}, {values}"),
        "insert into event_box.events (id, topic, payload) select gen_random_uuid(), 't', '{}' from generate_series(1, 9)".to_owned(),
        "select event_box.emit('t', '{}')".to_owned(),
        "copy".to_owned(),
    ];
    for insert in inserts {
        let mut tx = connection.begin().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        let failed = if insert == "copy" {
            log.outbox.copy(&mut savepoint, [&noted("")]).await.map(drop).map_err(|error| format!("{error:?}"))
        } else {
            let insert = sqlx::AssertSqlSafe(insert.clone());
            sqlx::raw_sql(insert).execute(&mut *savepoint).await.map(drop).map_err(|error| format!("{error:?}"))
        };
        assert!(failed.unwrap_err().contains("reached maximum value"), "{insert}");
        savepoint.rollback().await.unwrap();
        let assigned: bool = sqlx::query_scalar("select pg_current_xact_id_if_assigned() is not null")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert!(assigned, "{insert} took its sequence first");
        tx.rollback().await.unwrap();
    }
    drop(connection);
    log.close().await;
}

#[tokio::test]
async fn notifications_can_be_left_out_for_two_phase_commit() {
    let log = TestLog::new().await;
    let mut listener = sqlx::postgres::PgListener::connect_with(&log.pool).await.unwrap();
    listener.listen("event_box").await.unwrap();
    Outbox::new().notify(false).emit(&log.pool, &Counted { key: "k".to_owned(), n: 1 }).await.unwrap();
    log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: 2 }).await.unwrap();
    let heard = listener.recv().await.unwrap();
    let partition = log.number("select partition::bigint from event_box.events limit 1").await;
    assert_eq!(heard.payload(), format!("{partition} test.counted"));
    assert!(listener.next_buffered().is_none());
    drop(listener);
    log.close().await;
}
