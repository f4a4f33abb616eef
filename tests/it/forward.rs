use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, EventBox, Failure, GroupError};
use event_box_tests::{Counted, Running, Seen, TestLog, emit_next, seen_by, wait_until_seen};

use crate::replay::{ALL_DELIVERED, emitters};

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn log_with_tables() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    log
}

/// A consumer of group `g` that handles so many events and then finds its other side down.
fn run(log: &TestLog, room: usize) -> Running {
    let consumer = Consumer::builder(&log.pool, "g")
        .state(Arc::new(AtomicUsize::new(room)))
        .on(async |event: Counted, cx: &mut Context<'_, Arc<AtomicUsize>>| -> Result<(), Failure> {
            let taken = cx.state().fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1));
            taken.map_err(|_| Failure::Unavailable("no more room".into()))?;
            Ok(Seen::note("m", &event, cx).await?)
        })
        .workers(1)
        .build()
        .unwrap();
    Running::start(consumer)
}

/// Waits until nothing is left for the group, and answers the numbers it saw.
async fn rest(log: &TestLog) -> Vec<i64> {
    let running = run(log, usize::MAX);
    log.wait_until(ALL_DELIVERED, 1).await;
    running.stop().await.unwrap();
    seen_by(&log.pool, "g").await.into_iter().flat_map(|(_, numbers)| numbers).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_passed_over_and_what_is_open_is_not() {
    let log = log_with_tables().await;
    let group = EventBox::new(log.pool.clone()).group("g").by("alice");
    let error = group.forward_to_now().await.unwrap_err();
    assert!(matches!(error, GroupError::NoSuchGroup { .. }), "{error:?}");
    // A group that has been given nothing yet.
    let running = run(&log, 0);
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    running.stop().await.unwrap();
    let emit = async |n| log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    let mut open = log.pool.begin().await.unwrap();
    emit(1).await;
    log.outbox.emit(&mut *open, &counted("k", 2)).await.unwrap();
    emit(3).await;
    // One that has its transaction id and has not written, and one whose id is the newest of all, with an event below the position.
    let mut silent = log.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()::text").execute(&mut *silent).await.unwrap();
    let mut before = log.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()::text").execute(&mut *before).await.unwrap();
    let mut newest = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *newest, &counted("k", 5)).await.unwrap();
    log.outbox.emit(&mut *before, &counted("k", 4)).await.unwrap();
    before.commit().await.unwrap();
    group.forward_to_now().await.unwrap();
    let mut later = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *later, &counted("k", 6)).await.unwrap();
    log.outbox.emit(&mut *silent, &counted("k", 7)).await.unwrap();
    // Twice, so that what bounds the search for late events moves up.
    for n in [8, 9] {
        emit(n).await;
        rest(&log).await;
    }
    // One by one: an older one that ends with them would widen the search.
    for open in [newest, later, open, silent] {
        open.commit().await.unwrap();
        rest(&log).await;
    }
    assert_eq!(rest(&log).await, [8, 9, 5, 6, 2, 7]);
    let record: (String, String, String) =
        sqlx::query_as("select actor, action, group_name from event_box.interventions")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!(record, ("alice".to_owned(), "forward".to_owned(), "g".to_owned()));
    log.close().await;
}

/// In a pass over 100 to 104, which lie between 0 to 4: two are delivered, the others are passed over, and so is what was committed since
/// the pass began.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_over_late_events_ends_there() {
    let log = log_with_tables().await;
    let mut slow = log.pool.begin().await.unwrap();
    let mut slower = log.pool.begin().await.unwrap();
    for n in 0..5 {
        log.outbox.emit(&mut *slow, &counted("k", 100 + n)).await.unwrap();
        log.outbox.emit(&mut *slower, &counted("k", 200 + n)).await.unwrap();
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    assert_eq!(rest(&log).await.len(), 5);
    slow.commit().await.unwrap();
    let running = run(&log, 2);
    log.wait_until("select count(target) from event_box.cursors", 1).await;
    running.stop().await.unwrap();
    log.sql("delete from seen").await;
    log.outbox.emit(&log.pool, &counted("k", 50)).await.unwrap();
    EventBox::new(log.pool.clone()).group("g").forward_to_now().await.unwrap();
    slower.commit().await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 5)).await.unwrap();
    assert_eq!(rest(&log).await, [200, 201, 202, 203, 204, 5]);
    log.close().await;
}

/// Nothing comes twice or out of order, and nothing that is emitted afterwards is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_forward_while_all_run_doubles_nothing() {
    let log = log_with_tables().await;
    let consumer = || {
        let slowly = async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            sqlx::query("select pg_sleep(0.002)").execute(&mut *cx).await?;
            Ok(Seen::note("m", &event, cx).await?)
        };
        Consumer::builder(&log.pool, "g").on(slowly).workers(2).batch_size(7).build().unwrap()
    };
    let running = [Running::start(consumer()), Running::start(consumer())];
    let mut emitters = emitters(&log.pool, 6, 60, 20);
    wait_until_seen(&log.pool, "g", 50).await;
    let group = EventBox::new(log.pool.clone()).group("g");
    while !emitters.is_empty() {
        group.forward_to_now().await.unwrap();
        if let Ok(Some(ended)) = tokio::time::timeout(Duration::from_millis(100), emitters.join_next()).await {
            ended.unwrap();
        }
    }
    let mut tx = log.pool.begin().await.unwrap();
    let mut last = Vec::new();
    for key in 0..20 {
        let key = format!("k{key:02}");
        let n = emit_next(&mut tx, &key).await.unwrap();
        last.push((key, n));
    }
    tx.commit().await.unwrap();
    log.wait_until(ALL_DELIVERED, 1).await;
    for running in running {
        running.stop().await.unwrap();
    }
    let seen = seen_by(&log.pool, "g").await;
    assert_eq!(seen.len(), last.len());
    for ((key, numbers), (_, n)) in seen.iter().zip(&last) {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
        assert_eq!(numbers.last(), Some(n), "{key}");
    }
    let skipped = log.number("select (select count(*) from event_box.events) - (select count(*) from seen)").await;
    assert!(skipped > 0, "the consumers were as fast as the emitters");
    log.close().await;
}

#[tokio::test]
async fn parked_events_stay_unless_asked() {
    let log = log_with_tables().await;
    let run = |ready: bool| {
        let consumer = Consumer::builder(&log.pool, "g")
            .state(ready)
            .on(async |event: Counted, cx: &mut Context<'_, bool>| -> Result<(), Failure> {
                match (*cx.state(), event.key.as_str()) {
                    (_, "dead") => Err(Failure::Reject("no".into())),
                    (false, _) => Err(Failure::Retry("not yet".into())),
                    (true, _) => Ok(Seen::note("m", &event, cx).await?),
                }
            })
            .backoff(Backoff::fixed(Duration::from_millis(10)));
        Running::start(consumer.build().unwrap())
    };
    let group = EventBox::new(log.pool.clone()).group("g").by("alice");
    for n in 1..=2 {
        log.outbox.emit_all(&log.pool, &["k", "k", "dead"].map(|key| counted(key, n))).await.unwrap();
        let running = run(false);
        log.wait_until("select count(*) from event_box.parked", 2 + n).await;
        running.stop().await.unwrap();
        match n {
            1 => {
                group.forward_to_now().await.unwrap();
                let running = run(true);
                wait_until_seen(&log.pool, "g", 2).await;
                running.stop().await.unwrap();
            }
            _ => assert_eq!(group.forward_and_clear_parked().await.unwrap(), 4),
        }
    }
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    let records: Vec<(String, i64, Option<String>, String)> = sqlx::query_as(
        "select actor, sequence, (select partition_key from event_box.events e where e.id = event_id), detail
         from event_box.interventions where sequence is not null and action = 'forward' order by sequence",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    let record =
        |sequence, key: &str, detail: &str| ("alice".to_owned(), sequence, Some(key.to_owned()), detail.to_owned());
    assert_eq!(
        records,
        [
            record(3, "dead", "parked: failed"),
            record(4, "k", "parked: failed"),
            record(5, "k", "parked: waiting"),
            record(6, "dead", "parked: failed")
        ]
    );
    let running = run(true);
    log.outbox.emit(&log.pool, &counted("k", 3)).await.unwrap();
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 1, 3])]);
    log.close().await;
}
