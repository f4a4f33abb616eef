use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Failure, RunError};
use event_box_tests::{Counted, Noted, Running, Seen, TestLog, seen_by, wait_until_seen};

const XID: &str = "alter table seen add xid text default pg_current_xact_id()::text";

async fn emit(log: &TestLog, keys: &[&str], each: i64) {
    let events: Vec<_> =
        (1..=each).flat_map(|n| keys.iter().map(move |key| Counted { key: (*key).to_owned(), n })).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
}

/// What goes wrong is told by the key; the second event of each such key does, the first time.
async fn misbehaves(event: Counted, cx: &mut Context<'_, AtomicBool>) -> Result<(), Failure> {
    Seen::note(&cx.attempt().to_string(), &event, cx).await?;
    if event.n != 2 || cx.attempt() > 1 {
        return Ok(());
    }
    match event.key.as_str() {
        "fails" => Err("once".into()),
        "rejects" => Err(Failure::Reject("never".into())),
        "snoozes" if cx.state().swap(false, Ordering::Relaxed) => Err(Failure::Snooze(Duration::from_millis(50))),
        "sql" => Ok(sqlx::raw_sql("select 1 / 0").execute(&mut *cx).await.map(drop)?),
        "swallows" => {
            let _ = sqlx::raw_sql("select 1 / 0").execute(&mut *cx).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_failing_event_is_undone_with_its_batch_which_goes_through_without_it() {
    for key in ["fails", "rejects", "snoozes", "sql", "swallows"] {
        let log = TestLog::new().await;
        sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
        log.sql(XID).await;
        let keys = [key, "a", "b", "c"];
        emit(&log, &keys, 100).await;
        let consumer = Consumer::builder(&log.pool, "g")
            .state(AtomicBool::new(true))
            .on(misbehaves)
            .backoff(Backoff::fixed(Duration::from_millis(50)))
            .all_or_nothing()
            .build()
            .unwrap();
        let running = Running::start(consumer);
        let expected = if key == "rejects" { 399 } else { 400 };
        wait_until_seen(&log.pool, "g", expected).await;
        running.stop().await.unwrap();
        assert_eq!(log.number("select count(*) from seen").await, expected, "{key}: nothing twice");
        for (of, numbers) in seen_by(&log.pool, "g").await {
            let all: Vec<i64> = (1..=100).filter(|n| key != "rejects" || of != key || *n != 2).collect();
            assert_eq!(numbers, all, "{key}: {of}");
        }
        let dead = log.number("select count(*) from event_box.parked where dead_at is not null").await;
        assert_eq!(dead, i64::from(key == "rejects"), "{key}");
        assert_eq!(log.number("select count(*) from event_box.parked where dead_at is null").await, 0, "{key}");
        let retried = log.number("select count(*) from seen where member = '2'").await;
        assert_eq!(retried, i64::from(!["rejects", "snoozes"].contains(&key)), "{key}: charged once, and it alone");
        log.close().await;
    }
}

/// With nobody after it to stumble over the aborted transaction.
#[tokio::test]
async fn an_error_that_the_last_event_of_a_batch_swallows_is_found() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let events: Vec<_> = (1..=2).map(|n| Counted { key: "swallows".to_owned(), n }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let backoff = Backoff::fixed(Duration::from_millis(50));
    let consumer = Consumer::builder(&log.pool, "g").state(AtomicBool::new(true)).on(misbehaves).backoff(backoff);
    let running = Running::start(consumer.all_or_nothing().build().unwrap());
    wait_until_seen(&log.pool, "g", 2).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from seen where member = '2'").await, 1, "its second attempt");
    log.close().await;
}

#[tokio::test]
async fn a_batch_holds_more_writing_events_than_a_transaction_may_hold_savepoints() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql(XID).await;
    emit(&log, &["k"], 500).await;
    let consumer =
        Consumer::builder(&log.pool, "g").state(AtomicBool::new(true)).on(misbehaves).all_or_nothing().build().unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 500).await;
    running.stop().await.unwrap();
    // All in one, unless the machine stalls for longer than a batch may last.
    let largest = log.number("select max(n) from (select count(*) as n from seen group by xid) as batches").await;
    assert!(largest > 50, "{largest}");
    log.close().await;
}

/// What went before an outage in its batch is kept, and comes but once.
#[tokio::test]
async fn an_outage_in_the_middle_keeps_what_went_before() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    emit(&log, &["k"], 100).await;
    let consumer = Consumer::builder(&log.pool, "g")
        .state(AtomicBool::new(true))
        .on(async |event: Counted, cx: &mut Context<'_, AtomicBool>| -> Result<(), Failure> {
            Seen::note("m", &event, cx).await?;
            if event.n == 60 && cx.state().swap(false, Ordering::Relaxed) {
                return Err(Failure::Unavailable("down".into()));
            }
            Ok(())
        })
        .all_or_nothing()
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 100).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), (1..=100).collect::<Vec<i64>>())]);
    log.close().await;
}

#[tokio::test]
async fn one_group_has_one_mode() {
    let log = TestLog::new().await;
    async fn ignore(_: Noted, _: &mut Context<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    let build = || Consumer::builder(&log.pool, "g").on(ignore);
    let first = Running::start(build().build().unwrap());
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let error = Running::start(build().all_or_nothing().build().unwrap()).ended().await.unwrap_err();
    assert!(matches!(&error, RunError::Mode { group, .. } if group == "g"), "{error:?}");
    assert!(error.to_string().contains("`transactional`") && error.to_string().contains("set_mode"), "{error}");
    // One that runs when the mode is changed stops with the same error.
    log.sql("update event_box.consumer_groups set mode = 'all_or_nothing'").await;
    log.outbox.emit(&log.pool, &Noted { text: String::new() }).await.unwrap();
    let error = first.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Mode { .. }), "{error:?}");
    let running = Running::start(build().all_or_nothing().build().unwrap());
    running.stop().await.unwrap();
    log.close().await;
}
