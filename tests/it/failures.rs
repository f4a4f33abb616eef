use std::time::Duration;

use event_box::{Backoff, BoxError, Consumer, Context, Failure};
use event_box_tests::{Counted, Logged, Noted, PATIENCE, Running, Seen, TestLog, seen_by, wait_until_seen};
use tokio::sync::mpsc;

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn emit_keys(log: &TestLog, keys: &[&str], each: i64) {
    for n in 1..=each {
        for key in keys {
            log.outbox.emit(&log.pool, &counted(key, n)).await.unwrap();
        }
    }
}

/// Writes, then fails the first two attempts at the second event of key `bad`.
async fn fails_twice(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Seen::note("m", &event, cx).await?;
    if event.key == "bad" && event.n == 2 && cx.attempt() <= 2 {
        return Err(format!("not yet, attempt {}", cx.attempt()).into());
    }
    Ok(())
}

#[tokio::test]
async fn a_failing_event_stops_its_own_key_alone_and_comes_again() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let keys = ["bad", "a", "b", "c"];
    emit_keys(&log, &keys, 30).await;
    let backoff = Backoff::fixed(Duration::from_millis(200));
    let consumer = Consumer::builder(&log.pool, "g").on(fails_twice).backoff(backoff).build().unwrap();
    let running = Running::start(consumer);
    // The neighbours are through while the key waits: all but its 29 remaining.
    wait_until_seen(&log.pool, "g", 91).await;
    wait_until_seen(&log.pool, "g", 120).await;
    running.stop().await.unwrap();
    let all: Vec<i64> = (1..=30).collect();
    for (key, numbers) in seen_by(&log.pool, "g").await {
        assert_eq!(numbers, all, "{key}: each once, in order, what failed attempts wrote undone");
    }
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

#[tokio::test]
async fn the_last_attempt_leaves_a_dead_letter_and_the_key_goes_on() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    emit_keys(&log, &["bad"], 3).await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if event.n == 1 {
                return Err("never".into());
            }
            Ok(Seen::note("m", &event, cx).await?)
        })
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .max_attempts(3)
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 2).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("bad".to_owned(), vec![2, 3])]);
    let (attempts, error, dead): (i32, String, bool) =
        sqlx::query_as("select attempts, error, dead_at is not null from event_box.parked")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!((attempts, error.as_str(), dead), (3, "never", true));
    log.close().await;
}

#[tokio::test]
async fn a_rejected_event_is_a_dead_letter_at_once_and_a_snoozed_one_waits_without_an_attempt() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Counted, cx: &mut Context<'_, mpsc::UnboundedSender<(i64, u32)>>| -> Result<(), Failure> {
            cx.state().send((event.n, cx.attempt()))?;
            let snoozed = cx.sequence() == 2 && cx.headers().is_empty();
            match event.n {
                1 => Err(Failure::Reject("malformed".into())),
                2 if snoozed && event.key == "first" => Err(Failure::Snooze(Duration::from_millis(100))),
                _ => Ok(()),
            }
        })
        .build()
        .unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let running = Running::start(consumer);
    let mut next = async || tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    assert_eq!(next().await, (1, 1));
    log.outbox.emit(&log.pool, &counted("first", 2)).await.unwrap();
    assert_eq!([next().await, next().await, next().await], [(2, 1), (2, 1), (2, 1)], "no attempt is burned");
    running.stop().await.unwrap();
    let dead =
        log.number("select count(*) from event_box.parked where dead_at is not null and error = 'malformed'").await;
    assert_eq!(dead, 1);
    let snoozed = log.number("select count(*) from event_box.parked where reason = 'snoozed' and attempts = 0").await;
    assert_eq!(snoozed, 1);
    log.close().await;
}

#[tokio::test]
async fn panics_time_outs_and_unreadable_payloads_fail_their_event_alone() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Noted, cx: &mut Context<'_, mpsc::UnboundedSender<String>>| -> Result<(), BoxError> {
            match event.text.as_str() {
                "panics" => panic!("with a message"),
                "hangs in SQL" => sqlx::query("select pg_sleep(3600)").execute(&mut *cx).await.map(drop)?,
                "hangs" => std::future::pending::<()>().await,
                "swallows" => drop(sqlx::query("select 1 / 0").execute(&mut *cx).await),
                _ => {}
            }
            Ok(cx.state().send(event.text)?)
        })
        .handler_timeout(Duration::from_secs(3))
        .max_attempts(1)
        .build()
        .unwrap();
    log.sql("select event_box.emit('test.noted', '{\"text\": {\"not\": \"a string\"}}', 'k')").await;
    for text in ["a", "panics", "b", "hangs", "c", "hangs in SQL", "d", "swallows", "e"] {
        log.outbox.emit(&log.pool, &Noted { text: text.to_owned() }).partition_key("k").await.unwrap();
    }
    let running = Running::start(consumer);
    let mut good = Vec::new();
    // A batch that a time-out cost its connection comes again: what it handled was rolled back.
    while !good.ends_with(&["d".to_owned(), "swallows".to_owned(), "e".to_owned()]) {
        good.push(tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap());
    }
    running.stop().await.unwrap();
    let errors: Vec<String> =
        sqlx::query_scalar("select error from event_box.parked order by sequence").fetch_all(&log.pool).await.unwrap();
    let expected = [
        "the payload does not fit at `text`: invalid type: map, expected a string",
        "the handler panicked: with a message",
        "the handler took longer than its time-out of 3s",
        "canceling statement due to statement timeout",
        "the handler returned Ok after a statement of its had failed",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        let either =
            error.contains(expected) || (expected.contains("canceling") && error.contains("longer than its time-out"));
        assert!(either, "{error} instead of {expected}");
    }
    // Its statement is cancelled on the server.
    let ended = "select (count(*) = 0)::int::bigint from pg_stat_activity
                 where query like '%pg_sleep(3600)%' and state = 'active' and pid <> pg_backend_pid() and datname = current_database()";
    log.wait_until(ended, 1).await;
    log.close().await;
}

#[tokio::test]
async fn an_outage_parks_nothing_and_passes() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer =
        Consumer::builder(&log.pool, "g")
            .state((up.clone(), report))
            .on(
                async |event: Counted,
                       cx: &mut Context<
                    '_,
                    (std::sync::Arc<std::sync::atomic::AtomicBool>, mpsc::UnboundedSender<()>),
                >| {
                    let (up, report) = cx.state();
                    if !up.load(std::sync::atomic::Ordering::Relaxed) {
                        let _ = report.send(());
                        return Err(Failure::Unavailable("the warehouse is down".into()));
                    }
                    Ok(Seen::note("m", &event, cx).await?)
                },
            )
            .build()
            .unwrap();
    emit_keys(&log, &["a", "b"], 10).await;
    let running = Running::start(consumer);
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    }
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    up.store(true, std::sync::atomic::Ordering::Relaxed);
    wait_until_seen(&log.pool, "g", 20).await;
    running.stop().await.unwrap();
    let all: Vec<i64> = (1..=10).collect();
    assert_eq!(seen_by(&log.pool, "g").await, [("a".to_owned(), all.clone()), ("b".to_owned(), all)]);
    log.close().await;
}

/// A deadlock is nobody's fault: the batch ends before its victim, whose turn comes again without the locks of those before it.
#[tokio::test]
async fn a_deadlock_burns_no_attempt() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(std::sync::atomic::AtomicBool::new(true))
        .on(async |event: Counted, cx: &mut Context<'_, std::sync::atomic::AtomicBool>| -> Result<(), BoxError> {
            Seen::note(&cx.attempt().to_string(), &event, cx).await?;
            if event.n == 5 && cx.state().swap(false, std::sync::atomic::Ordering::Relaxed) {
                sqlx::raw_sql("do $$ begin raise exception using errcode = 'deadlock_detected'; end $$")
                    .execute(&mut *cx)
                    .await?;
            }
            Ok(())
        })
        .build()
        .unwrap();
    emit_keys(&log, &["k"], 10).await;
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 10).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), (1..=10).collect::<Vec<i64>>())]);
    assert_eq!(log.number("select count(*) from seen where member <> '1'").await, 0, "no attempt is burned");
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

/// Events of many partitions are handled in one transaction: a deadlock may come of the locks of another partition's.
#[tokio::test]
async fn a_deadlock_behind_other_partitions_burns_no_attempt() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(std::sync::atomic::AtomicUsize::new(0))
        .on(async |event: Counted, cx: &mut Context<'_, std::sync::atomic::AtomicUsize>| -> Result<(), BoxError> {
            Seen::note(&cx.attempt().to_string(), &event, cx).await?;
            if cx.state().fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 5 {
                sqlx::raw_sql("do $$ begin raise exception using errcode = 'deadlock_detected'; end $$")
                    .execute(&mut *cx)
                    .await?;
            }
            Ok(())
        })
        .workers(1)
        .build()
        .unwrap();
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    emit_keys(&log, &keys, 1).await;
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 10).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(distinct key) from seen").await, 10);
    assert_eq!(log.number("select count(*) from seen where member <> '1'").await, 0, "no attempt is burned");
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

/// Refused before it is sent where it goes through the context; found at the savepoint's release where it goes round it.
#[tokio::test]
async fn a_handler_that_ends_the_transaction_gets_a_clear_error_and_harms_no_neighbour() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            Seen::note("m", &event, cx).await?;
            match (event.key.as_str(), event.n) {
                ("through", 2) => sqlx::raw_sql("commit").execute(&mut *cx).await.map(drop)?,
                ("round", 2) => sqlx::raw_sql("commit").execute(cx.connection().await?).await.map(drop)?,
                ("rolls", 2) => sqlx::raw_sql("rollback").execute(cx.connection().await?).await.map(drop)?,
                _ => {}
            }
            Ok(())
        })
        .max_attempts(1)
        .build()
        .unwrap();
    let keys = ["through", "round", "rolls", "a", "b", "c"];
    emit_keys(&log, &keys, 4).await;
    let running = Running::start(consumer);
    // All but the three culprits; what a committed batch wrote is seen again.
    log.wait_until("select count(distinct (key, n)) from seen", 21).await;
    log.wait_until("select count(*) from event_box.parked where dead_at is not null", 3).await;
    running.stop().await.unwrap();
    let dead: Vec<(String, i64, String)> = sqlx::query_as(
        "select p.partition_key, (events.payload ->> 'n')::bigint, error from event_box.parked p join event_box.events using (partition, sequence)
         where dead_at is not null order by 1",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    let of: Vec<_> = dead.iter().map(|(key, n, _)| (key.as_str(), *n)).collect();
    assert_eq!(of, [("rolls", 2), ("round", 2), ("through", 2)]);
    assert!(dead[2].2.contains("`commit` in a handler: the delivery's transaction is the consumer's"), "{dead:?}");
    assert!(dead[..2].iter().all(|(_, _, error)| error.contains("ended the delivery's transaction")), "{dead:?}");
    for (key, numbers) in seen_by(&log.pool, "g").await {
        let mut once = numbers.clone();
        once.dedup();
        let expected: &[i64] = if keys[..3].contains(&key.as_str()) { &[1, 3, 4] } else { &[1, 2, 3, 4] };
        let seen: Vec<_> = once.into_iter().filter(|n| expected.contains(n)).collect();
        assert!(seen.ends_with(expected), "{key}: {numbers:?}");
    }
    log.close().await;
}

/// One lock rules all deliveries of a partition: whoever decides on a parked event holds it.
#[tokio::test]
async fn a_retry_waits_for_the_claim_of_its_partition() {
    let (logged, log) = (Logged::here(), TestLog::new().await);
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if cx.attempt() == 1 {
                return Err("once".into());
            }
            Ok(Seen::note("m", &event, cx).await?)
        })
        .backoff(Backoff::fixed(Duration::from_secs(3600)))
        .build()
        .unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked", 1).await;
    let mut tx = log.pool.begin().await.unwrap();
    let lock = "select from event_box.cursors where partition = (select partition from event_box.events) for update";
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    log.sql("update event_box.parked set due_at = clock_timestamp(); select nextval('event_box.events_sequence_seq')")
        .await;
    // It is tried, and finds the partition held.
    let claims = logged.statements("for update skip locked");
    logged.wait_for_statements("for update skip locked", claims + 2).await;
    assert_eq!(log.number("select count(*) from seen").await, 0);
    tx.rollback().await.unwrap();
    wait_until_seen(&log.pool, "g", 1).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// More writing handlers than a transaction may hold savepoints.
#[tokio::test]
async fn no_transaction_holds_more_than_fifty_savepoints() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("alter table seen add xid text default pg_current_xact_id()::text").await;
    let events: Vec<_> = (1..=500).map(|n| counted("k", n)).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g").on(fails_twice).build().unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 500).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), (1..=500).collect::<Vec<i64>>())]);
    let largest = log.number("select max(n) from (select count(*) as n from seen group by xid) as batches").await;
    assert_eq!(largest, 50);
    log.close().await;
}

/// An older version of a service, without the newer one's handler, runs beside it.
#[tokio::test]
async fn an_event_without_a_handler_waits_for_a_process_that_has_one() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    async fn ignore(_: Noted, _: &mut Context<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
        Ok(Seen::note("m", &event, cx).await?)
    }
    // The newer one made the group read its topic, and went.
    let newer = || Consumer::builder(&log.pool, "g").on(ignore).on(note).build().unwrap();
    let running = Running::start(newer());
    emit_keys(&log, &["k"], 1).await;
    wait_until_seen(&log.pool, "g", 1).await;
    running.stop().await.unwrap();
    let older = Running::start(Consumer::builder(&log.pool, "g").on(ignore).build().unwrap());
    for n in 2..=5 {
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    log.wait_until("select count(*) from event_box.parked", 4).await;
    let running = Running::start(newer());
    wait_until_seen(&log.pool, "g", 5).await;
    running.stop().await.unwrap();
    older.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 4, 5])]);
    log.close().await;
}
