use std::{collections::HashMap, time::Duration};

use event_box::{Backoff, Failure, Outbox, PullBuilder, PullError};
use event_box_tests::{Counted, Noted, PATIENCE, Seen, TestLog, assert_each_once_in_order, emit_next};
use sqlx::Connection;

async fn emit(log: &TestLog, key: &str, n: i64) {
    log.outbox.emit(&log.pool, &Counted { key: key.to_owned(), n }).await.unwrap();
}

fn numbers(batch: event_box::PulledBatch) -> Vec<i64> {
    batch.map(|event| event.decode::<Counted>().unwrap().n).collect()
}

#[tokio::test]
async fn a_dropped_transaction_gives_its_events_back_and_a_committed_one_does_not() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    for n in 1..=3 {
        emit(&log, "k", n).await;
    }
    log.outbox.emit(&log.pool, &Noted { text: "of no concern".to_owned() }).await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    assert_eq!(pull.next(&mut tx).await.unwrap().unwrap().decode::<Counted>().unwrap().n, 1);
    drop(tx);
    for expected in [1, 2] {
        let mut tx = log.pool.begin().await.unwrap();
        let event = pull.next(&mut tx).await.unwrap().unwrap();
        assert_eq!(event.decode::<Counted>().unwrap().n, expected);
        assert_eq!((event.topic(), event.partition_key(), event.attempt()), ("test.counted", Some("k"), 1));
        tx.commit().await.unwrap();
    }
    let mut tx = log.pool.begin().await.unwrap();
    assert_eq!(numbers(pull.batch(&mut tx, 10).await.unwrap()), [3]);
    assert!(pull.batch(&mut tx, 10).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    assert!(pull.next(&mut tx).await.unwrap().is_none());
    drop(tx);
    log.close().await;
}

#[tokio::test]
async fn a_transaction_that_is_not_read_committed_is_refused_by_name() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    emit(&log, "k", 1).await;
    let mut connection = log.pool.acquire().await.unwrap();
    for level in ["repeatable read", "serializable"] {
        let begin = sqlx::AssertSqlSafe(format!("begin isolation level {level}"));
        let mut tx = connection.begin_with(begin).await.unwrap();
        let error = pull.next(&mut tx).await.unwrap_err();
        assert!(matches!(&error, PullError::Isolation { found } if found == level), "{error:?}");
        assert!(error.to_string().contains("begin isolation level read committed"), "{error}");
    }
    let mut tx = connection.begin().await.unwrap();
    assert!(pull.next(&mut tx).await.unwrap().is_some());
    drop(tx);
    drop(connection);
    log.close().await;
}

/// What fails waits with those of its key behind it; the batch's others go on.
#[tokio::test]
async fn a_failed_event_comes_again_before_what_waits_behind_it() {
    let log = TestLog::new().await;
    let backoff = Backoff::fixed(Duration::from_millis(50));
    let open = PullBuilder::new(&log.pool, "g").event::<Counted>().backoff(backoff).max_attempts(2).open();
    let pull = open.await.unwrap();
    for n in 1..=4 {
        emit(&log, "k", n).await;
    }
    let mut tx = log.pool.begin().await.unwrap();
    let mut batch = pull.batch(&mut tx, 3).await.unwrap();
    let first = batch.next().unwrap();
    batch.fail(&mut tx, first, "not now").await.unwrap();
    assert!(batch.is_empty(), "the others of its key wait behind it");
    tx.commit().await.unwrap();
    let (mut order, mut last_attempt) = (Vec::new(), 0);
    while order.len() < 4 {
        tokio::time::timeout(PATIENCE, pull.wait()).await.expect("in time").unwrap();
        let mut tx = log.pool.begin().await.unwrap();
        for event in pull.batch(&mut tx, 3).await.unwrap() {
            order.push(event.decode::<Counted>().unwrap().n);
            last_attempt = last_attempt.max(event.attempt());
        }
        tx.commit().await.unwrap();
    }
    assert_eq!((order, last_attempt), (vec![1, 2, 3, 4], 2));
    // Rejected, and after the last attempt: a dead letter.
    emit(&log, "k", 5).await;
    let mut tx = log.pool.begin().await.unwrap();
    let mut batch = pull.batch(&mut tx, 3).await.unwrap();
    let event = batch.next().unwrap();
    batch.fail(&mut tx, event, Failure::Reject("malformed".into())).await.unwrap();
    tx.commit().await.unwrap();
    let dead = "select count(*) from event_box.parked where dead_at is not null and error = 'malformed'";
    assert_eq!(log.number(dead).await, 1);
    log.close().await;
}

/// Emits of its own before the pull, several batches and partitions in a transaction, rollbacks: once each, in order.
async fn pull_all(log: &TestLog, own: String, seed: u64) {
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    let mut random = fastrand(seed);
    loop {
        let mut tx = log.pool.begin().await.unwrap();
        if random().is_multiple_of(3) && log.number("select count(*) from seen").await < 500 {
            emit_next(&mut tx, &own).await.unwrap();
        }
        let mut pulled = 0;
        for _ in 0..random() % 3 + 1 {
            for event in pull.batch(&mut tx, (random() % 7 + 1) as usize).await.unwrap() {
                let Counted { key, n } = event.decode().unwrap();
                sqlx::query("insert into seen (member, grp, key, n) values ('m', 'g', $1, $2)")
                    .bind(key)
                    .bind(n)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                pulled += 1;
            }
        }
        if random().is_multiple_of(5) { tx.rollback().await } else { tx.commit().await }.unwrap();
        let all = "select (select sum(n)::bigint from counters) - (select count(*) from seen)";
        if pulled == 0 && log.number(all).await == 0 && log.number("select count(*) from seen").await >= 500 {
            return;
        }
    }
}

/// A generator of small numbers.
fn fastrand(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pullers_that_emit_and_roll_back_lose_double_and_reorder_nothing() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    for i in 0..200 {
        let mut tx = log.pool.begin().await.unwrap();
        emit_next(&mut tx, &format!("k{}", i % 20)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let pullers = (0..3).map(|i| pull_all(&log, format!("own{i}"), i + 7));
    tokio::time::timeout(PATIENCE * 2, futures_util::future::join_all(pullers)).await.expect("in time");
    assert_each_once_in_order(&log.pool, "g").await;
    log.close().await;
}

/// A caller who always emits first could never move the bounds that keep looks and reads short.
#[tokio::test]
async fn bounds_move_for_a_caller_that_always_emits_first() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    let mut pulled = HashMap::<String, i64>::new();
    for n in 1..=100 {
        let mut tx = log.pool.begin().await.unwrap();
        Outbox::new().emit(&mut *tx, &Counted { key: format!("k{}", n % 5), n }).await.unwrap();
        for event in pull.batch(&mut tx, 10).await.unwrap() {
            *pulled.entry(event.partition_key().unwrap().to_owned()).or_default() += 1;
        }
        tx.commit().await.unwrap();
    }
    assert!(pulled.values().sum::<i64>() > 90);
    let last = log.number("select max(sequence) from event_box.events").await;
    let lowest = log.number("select min(floor) from event_box.cursors").await;
    assert!(lowest > last / 4, "every floor follows the log: {lowest} of {last}");
    log.close().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_when_it_is_opened() {
    let log = TestLog::new().await;
    let error = PullBuilder::new(&log.pool, "g").open().await.unwrap_err();
    assert!(matches!(&error, PullError::NoTopic { group } if group == "g"), "{error:?}");
    let error = PullBuilder::new(&log.pool, "").topic("t").open().await.unwrap_err();
    assert!(matches!(error, PullError::GroupName { .. }), "{error:?}");
    let pull = PullBuilder::new(&log.pool, "g").topic("t").open().await.unwrap();
    log.sql("delete from event_box.consumer_groups").await;
    let mut tx = log.pool.begin().await.unwrap();
    let error = pull.next(&mut tx).await.unwrap_err();
    assert!(matches!(error, PullError::GroupRemoved { .. }), "{error:?}");
    let error = pull.wait().await.unwrap_err();
    assert!(matches!(error, PullError::GroupRemoved { .. }), "{error:?}");
    drop(tx);
    log.close().await;
}

#[tokio::test]
async fn waiting_ends_where_the_pool_is_closed() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    let waiting = tokio::spawn(async move { pull.wait().await });
    log.wait_until(
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'",
        1,
    )
    .await;
    log.pool.close().await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(PullError::Log(_))), "{ended:?}");
    log.close().await;
}
