use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use event_box::{Backoff, BoxError, Consumer, Context, EventBox, Failure, GroupError};
use event_box_tests::{Counted, Running, Seen, TestLog, emit_next, seen_by, wait_until_seen};
use sqlx::PgPool;

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

async fn log_with_tables() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    log
}

/// By the meaning of a cursor, to every group there is, which must be one at least.
pub(crate) const ALL_DELIVERED: &str = "select (count(*) = 0)::int::bigint
     from event_box.events e left join event_box.cursors c using (partition)
     where (e.sequence <= c.position
            and (pg_visible_in_snapshot(e.xid, c.snapshot)
                 or (c.target is not null and e.sequence <= c.reached and pg_visible_in_snapshot(e.xid, c.target)))) is not true";

/// Transactions of one to three keys, some of which stay open for a while, roll back, or take their id long before they emit.
pub(crate) fn emitters(pool: &PgPool, count: u64, transactions: usize, keys: u64) -> tokio::task::JoinSet<()> {
    let mut emitters = tokio::task::JoinSet::new();
    for emitter in 0..count {
        let pool = pool.clone();
        emitters.spawn(async move {
            let mut random = fastrand::Rng::with_seed(emitter);
            for _ in 0..transactions {
                let mut tx = pool.begin().await.unwrap();
                let linger = random.f64() * 0.05;
                if random.u8(0..4) == 0 {
                    sqlx::query("select pg_current_xact_id()::text, pg_sleep($1)")
                        .bind(linger)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                }
                // Ascending, so that emitters do not deadlock.
                let first = random.u64(0..keys);
                for key in first..(first + random.u64(1..4)).min(keys) {
                    emit_next(&mut tx, &format!("k{key:02}")).await.unwrap();
                }
                if random.u8(0..3) == 0 {
                    sqlx::query("select pg_sleep($1)").bind(linger).execute(&mut *tx).await.unwrap();
                }
                match random.u8(0..8) {
                    0 => tx.rollback().await.unwrap(),
                    _ => tx.commit().await.unwrap(),
                }
            }
        });
    }
    emitters
}

/// Each key's events once up to some event, then all from its first at or after the point, once more: `from` answers, for each key, how
/// many of its events lie before the point.
async fn assert_replayed(log: &TestLog, from: &'static str) {
    let keys: Vec<(String, i64, i64)> = sqlx::query_as(from).fetch_all(&log.pool).await.unwrap();
    let seen = seen_by(&log.pool, "g").await;
    assert_eq!(seen.len(), keys.len());
    let mut twice = 0;
    for ((key, total, before), (seen_key, seen)) in keys.into_iter().zip(seen) {
        assert_eq!(key, seen_key);
        let first_time = seen.len() as i64 - (total - before);
        assert!(first_time >= before, "{key}: {seen:?} of {total}, {before} before the point");
        let expected: Vec<_> = (1..=first_time).chain(before + 1..=total).collect();
        assert_eq!(seen, expected, "{key}: {before} before the point");
        twice += first_time - before;
    }
    assert!(twice > 0, "nothing was delivered twice");
}

async fn replay_while_all_run(replay: impl AsyncFnOnce(&TestLog), from: &'static str) {
    let log = log_with_tables().await;
    let consumer = || Consumer::builder(&log.pool, "g").on(note).workers(2).batch_size(7).build().unwrap();
    let running = [Running::start(consumer()), Running::start(consumer())];
    let mut emitters = emitters(&log.pool, 6, 60, 20);
    wait_until_seen(&log.pool, "g", 200).await;
    // The middle of what is there: the one above it was seen, or will be.
    log.sql(
        "create table half as select sequence, emitted_at as at from event_box.events
         where sequence >= (select max(sequence) / 2 from event_box.events) order by sequence limit 1",
    )
    .await;
    wait_until_seen(&log.pool, "g", 350).await;
    replay(&log).await;
    while let Some(ended) = emitters.join_next().await {
        ended.unwrap();
    }
    log.wait_until(ALL_DELIVERED, 1).await;
    for running in running {
        running.stop().await.unwrap();
    }
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_replayed(&log, from).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_from_a_sequence_on_comes_once_more_in_order_while_all_run() {
    let replay = async |log: &TestLog| {
        let half = log.number("select sequence from half").await;
        EventBox::new(log.pool.clone()).group("g").replay_from(half).await.unwrap();
    };
    let from = "select partition_key, count(*), count(*) filter (where sequence < (select sequence from half))
                from event_box.events group by 1 order by 1";
    replay_while_all_run(replay, from).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_since_a_time_comes_once_more_in_order_while_all_run() {
    let replay = async |log: &TestLog| {
        let micros = log.number("select (extract(epoch from at) * 1000000)::bigint from half").await;
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros as u64);
        EventBox::new(log.pool.clone()).group("g").replay_since(time).await.unwrap();
    };
    let from = "with point as (
                    select partition, min(sequence) filter (where emitted_at >= (select at from half)) as sequence
                    from event_box.events group by 1)
                select partition_key, count(*), count(*) filter (where e.sequence < coalesce(point.sequence, e.sequence + 1))
                from event_box.events e join point using (partition) group by 1 order by 1";
    replay_while_all_run(replay, from).await;
}

/// In a pass over the events 100 to 104 of a late transaction, which lie between 0 to 4: 100 and 101 are delivered.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_into_the_middle_of_a_pass_is_exact() {
    for (from, expected) in [(1, vec![100, 0, 101, 1, 102, 2, 103, 3, 104, 4]), (6, vec![102, 2, 103, 3, 104, 4])] {
        let log = log_with_tables().await;
        let run = |room: usize| {
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
        };
        let mut slow = log.pool.begin().await.unwrap();
        for n in 0..5 {
            log.outbox.emit(&mut *slow, &counted("k", 100 + n)).await.unwrap();
            log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
        }
        let running = run(usize::MAX);
        wait_until_seen(&log.pool, "g", 5).await;
        running.stop().await.unwrap();
        slow.commit().await.unwrap();
        let running = run(2);
        log.wait_until("select coalesce(max(reached), 0) from event_box.cursors where target is not null", 3).await;
        running.stop().await.unwrap();
        assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![0, 1, 2, 3, 4, 100, 101])]);
        log.sql("delete from seen").await;
        EventBox::new(log.pool.clone()).group("g").replay_from(from).await.unwrap();
        let running = run(usize::MAX);
        log.wait_until(ALL_DELIVERED, 1).await;
        running.stop().await.unwrap();
        assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), expected)], "from {from}");
        log.close().await;
    }
}

#[tokio::test]
async fn parked_events_from_the_point_on_start_anew_and_those_before_stay() {
    let log = log_with_tables().await;
    let consumer = |fails: bool| {
        Consumer::builder(&log.pool, "g")
            .state(fails)
            .on(async |event: Counted, cx: &mut Context<'_, bool>| -> Result<(), Failure> {
                assert_eq!(cx.attempt(), 1);
                match (*cx.state(), event.key.as_str()) {
                    (true, "dead") => Err(Failure::Reject("no".into())),
                    (true, "bad" | "before") => Err(Failure::Retry("not yet".into())),
                    _ => Ok(Seen::note("m", &event, cx).await?),
                }
            })
            .backoff(Backoff::fixed(Duration::from_secs(3_600)))
            .build()
            .unwrap()
    };
    // Sequences 1 to 7.
    let events = [("before", 1), ("before", 2), ("good", 1), ("bad", 1), ("dead", 1), ("bad", 2), ("before", 3)];
    log.outbox.emit_all(&log.pool, &events.map(|(key, n)| counted(key, n))).await.unwrap();
    let running = Running::start(consumer(true));
    log.wait_until("select count(*) from event_box.parked", 6).await;
    wait_until_seen(&log.pool, "g", 1).await;
    running.stop().await.unwrap();
    log.sql(r#"update event_box.parked set payload = '{"key": "bad", "n": 99}' where partition_key = 'bad'"#).await;
    let running = Running::start(consumer(false));
    let group = EventBox::new(log.pool.clone()).group("g").by("alice");
    assert_eq!(group.replay_from(3).await.unwrap().parked, 4);
    wait_until_seen(&log.pool, "g", 5).await;
    log.wait_until("select (count(*) = 3)::int::bigint from event_box.parked", 1).await;
    running.stop().await.unwrap();
    let seen = |key: &str, numbers: &[i64]| (key.to_owned(), numbers.to_vec());
    assert_eq!(seen_by(&log.pool, "g").await, [seen("bad", &[1, 2]), seen("dead", &[1]), seen("good", &[1, 1])]);
    let parked: Vec<(i64, String)> =
        sqlx::query_as("select sequence, reason from event_box.parked order by 1").fetch_all(&log.pool).await.unwrap();
    let waits = |sequence, reason: &str| (sequence, reason.to_owned());
    assert_eq!(parked, [waits(1, "failed"), waits(2, "waiting"), waits(7, "waiting")]);
    let record: (String, String, String, String) =
        sqlx::query_as("select actor, action, group_name, detail from event_box.interventions")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!(record, ("alice".to_owned(), "replay".to_owned(), "g".to_owned(), "from sequence 3".to_owned()));
    log.close().await;
}

#[tokio::test]
async fn from_the_beginning_is_what_the_log_still_holds() {
    let log = log_with_tables().await;
    let group = EventBox::new(log.pool.clone()).group("g");
    for error in [group.replay_all().await.unwrap_err(), group.replay_since(SystemTime::now()).await.unwrap_err()] {
        assert!(matches!(&error, GroupError::NoSuchGroup { group } if group == "g"), "{error:?}");
    }
    let running = Running::start(Consumer::builder(&log.pool, "g").on(note).build().unwrap());
    log.outbox.emit_all(&log.pool, &[counted("k", 1), counted("k", 2)]).await.unwrap();
    wait_until_seen(&log.pool, "g", 2).await;
    log.wait_until(ALL_DELIVERED, 1).await;
    assert_eq!(event_box::prune(&log.pool, Duration::ZERO).await.unwrap().events, 2);
    log.outbox.emit(&log.pool, &counted("k", 3)).await.unwrap();
    wait_until_seen(&log.pool, "g", 3).await;
    group.replay_all().await.unwrap();
    // An idle consumer looks by itself only every half minute.
    let seen = tokio::time::timeout(Duration::from_secs(25), wait_until_seen(&log.pool, "g", 4));
    seen.await.expect("the replay wakes the consumer");
    // Beyond where it stands: nothing.
    group.replay_from(i64::MAX).await.unwrap();
    group.replay_since(SystemTime::now() + Duration::from_secs(60)).await.unwrap();
    running.stop().await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 4)).await.unwrap();
    let running = Running::start(Consumer::builder(&log.pool, "g").on(note).build().unwrap());
    wait_until_seen(&log.pool, "g", 5).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 3, 4])]);
    log.close().await;
}
