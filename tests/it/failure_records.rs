use std::{collections::HashSet, time::Duration};

use event_box::{Backoff, BoxError, Consumer, Context, Event};
use event_box_tests::{Counted, Noted, Running, Seen, TestLog, seen_by};
use serde::{Deserialize, Serialize};

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

#[tokio::test]
async fn an_error_is_kept_with_its_causes() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |_: Counted, _: &mut Context<'_>| -> anyhow::Result<()> {
            Err(anyhow::anyhow!("connection refused")
                .context("the warehouse does not answer")
                .context("reserving stock"))
        })
        .build()
        .unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked", 1).await;
    running.stop().await.unwrap();
    let error: String = sqlx::query_scalar("select error from event_box.parked").fetch_one(&log.pool).await.unwrap();
    assert_eq!(error, "reserving stock: the warehouse does not answer: connection refused");
    log.close().await;
}

#[tokio::test]
async fn the_first_failure_keeps_its_time_and_the_last_one_moves() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |_: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            Err(format!("attempt {}", cx.attempt()).into())
        })
        .backoff(Backoff::fixed(Duration::from_millis(300)))
        .build()
        .unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let running = Running::start(consumer);
    let times = async || -> (f64, f64, f64, String) {
        let sql = "select extract(epoch from first_failed_at)::float8, extract(epoch from last_failed_at)::float8,
                          extract(epoch from parked_at)::float8, error from event_box.parked";
        sqlx::query_as(sql).fetch_one(&log.pool).await.unwrap()
    };
    log.wait_until("select count(*) from event_box.parked", 1).await;
    let (first, last, parked, _) = times().await;
    assert!(first <= last);
    log.wait_until("select attempts::bigint from event_box.parked", 3).await;
    let (first_later, last_later, parked_later, error) = times().await;
    running.stop().await.unwrap();
    assert_eq!((first_later, parked_later), (first, parked));
    assert!(last_later > last + 0.2, "{last} {last_later}");
    assert!(error.starts_with("attempt ") && error != "attempt 1", "the last error is shown: {error}");
    log.close().await;
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "test.ordered", partition_key = "key")]
struct Ordered {
    key: String,
    n: i64,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    price: i64,
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_parked_with_its_path_and_harms_no_neighbour() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let ordered = |key: &str, n| Ordered { key: key.to_owned(), n, lines: vec![Line { price: 1 }] };
    // Of the same partition, before and after it: another key's, and its own.
    log.outbox.emit(&log.pool, &ordered("before", 1)).partition_key("k").await.unwrap();
    let bad = r#"select event_box.emit('test.ordered', '{"key":"k","n":1,"lines":[{"price":1},{"price":2},{"price":"three"}]}', 'k')"#;
    log.sql(bad).await;
    log.outbox.emit(&log.pool, &ordered("good", 1)).await.unwrap();
    log.outbox.emit(&log.pool, &ordered("k", 2)).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Ordered, cx: &mut Context<'_>| -> Result<(), BoxError> {
            Ok(Seen::note("m", &counted(&event.key, event.n), cx).await?)
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked", 2).await;
    log.wait_until("select count(*) from seen", 2).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("before".to_owned(), vec![1]), ("good".to_owned(), vec![1])]);
    let parked: Vec<(String, Option<String>)> =
        sqlx::query_as("select reason, error from event_box.parked order by sequence")
            .fetch_all(&log.pool)
            .await
            .unwrap();
    let [(reason, Some(error)), (behind, None)] = &parked[..] else { panic!("{parked:?}") };
    assert_eq!((reason.as_str(), behind.as_str()), ("failed", "waiting"));
    assert!(
        error.starts_with("the payload does not fit at `lines[2].price`: invalid type: string \"three\", expected i64"),
        "{error}"
    );
    log.close().await;
}

#[tokio::test]
async fn events_without_a_key_never_wait_for_each_other() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Noted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            let n: i64 = event.text.parse()?;
            if n % 10 == 0 {
                return Err("not this one".into());
            }
            Ok(Seen::note("m", &counted("none", n), cx).await?)
        })
        .backoff(Backoff::fixed(Duration::from_secs(3600)))
        .build()
        .unwrap();
    // Several to a partition.
    let events: Vec<_> = (1..=500).map(|n: i64| Noted { text: n.to_string() }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from seen", 450).await;
    log.wait_until("select count(*) from event_box.parked", 50).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.parked where reason <> 'failed'").await, 0);
    let mut seen = seen_by(&log.pool, "g").await.remove(0).1;
    seen.sort_unstable();
    assert_eq!(seen, (1..=500).filter(|n| n % 10 != 0).collect::<Vec<_>>());
    log.close().await;
}

/// Those that failed together do not come back together.
#[tokio::test]
async fn the_waits_of_events_that_failed_together_differ() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |_: Noted, _: &mut Context<'_>| -> Result<(), BoxError> { Err("down".into()) })
        .backoff(Backoff::exponential(Duration::from_secs(1_000), 2.0, Duration::from_secs(10_000)))
        .build()
        .unwrap();
    let events: Vec<_> = (0..40).map(|n: i64| Noted { text: n.to_string() }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked", 40).await;
    running.stop().await.unwrap();
    let sql = "select round(extract(epoch from due_at - last_failed_at))::bigint from event_box.parked";
    let waits: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&log.pool).await.unwrap();
    assert!(waits.iter().all(|wait| (900..=1_100).contains(wait)), "{waits:?}");
    assert!(waits.iter().collect::<HashSet<_>>().len() > 20, "{waits:?}");
    assert!(waits.iter().max().unwrap() - waits.iter().min().unwrap() > 50, "{waits:?}");
    log.close().await;
}
