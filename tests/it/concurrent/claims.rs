//! What a concurrent group's claims hold, and for how long.

use std::time::Duration;

use event_box::{Backoff, BoxError, Consumer, Detached};
use event_box_tests::{Counted, Running, TestLog, keys_of_one_partition};
use tokio::sync::Semaphore;

use super::{Book, emit, gate, many_keys, waits, waits_at_the_gate};

/// One key a partition: it takes many claims to keep the slots busy, of few connections.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_partitions_are_claimed_as_it_takes() {
    let log = TestLog::new().await;
    let keys: Vec<String> = sqlx::query_scalar(
        "select min('k' || i) from generate_series(1, 2000) as i group by hashtextextended('k' || i, 0) & 63 limit 40",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    emit(&log, &keys, 1..=1).await;
    let book = Book::leaked();
    let gate = gate();
    let consumer = Consumer::builder(&log.pool, "g")
        .state((book, gate))
        .concurrent(40)
        .workers(1)
        .on(waits_at_the_gate)
        .build()
        .unwrap();
    let running = Running::start(consumer);
    book.wait_until("all at work at once", |book| book.at_work.lock().unwrap().len() == 40).await;
    gate.add_permits(40);
    book.wait_for(40).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// The server gives a silent claim up after 15 s, which a handler may well take: it hears from the claim meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_kept_alive_while_its_handlers_wait() {
    let log = TestLog::new().await;
    emit(&log, &many_keys(1), 1..=1).await;
    let gate = gate();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(gate)
        .concurrent(4)
        .on(async |_: Counted, cx: &mut Detached<'_, &'static Semaphore>| -> Result<(), BoxError> {
            cx.state().acquire().await?.forget();
            Ok(())
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    let kept = "select count(*) from pg_stat_activity where datname = current_database()
                and state = 'idle in transaction' and query like '%the claim is kept%'";
    log.wait_until(kept, 1).await;
    gate.add_permits(1);
    log.wait_until("select count(*) from event_box.cursors where position > 0", 1).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// Another may have the claim by then: what runs under a lost one must not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_lost_ends_its_handlers_and_its_events_come_again() {
    let log = TestLog::new().await;
    let keys = many_keys(3);
    emit(&log, &keys, 1..=2).await;
    let book = Book::leaked();
    let gate = gate();
    let consumer =
        Consumer::builder(&log.pool, "g").state((book, gate)).concurrent(8).on(waits_at_the_gate).build().unwrap();
    let running = Running::start(consumer);
    book.wait_until("three at work", |book| book.at_work.lock().unwrap().len() == 3).await;
    let ended = log
        .number(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and state = 'idle in transaction'",
        )
        .await;
    assert!(ended >= 1);
    // Dropped with their claim, and begun again under another.
    book.wait_until("all begun again", |book| book.begun.lock().unwrap().len() >= 6).await;
    assert!(book.ended.lock().unwrap().is_empty());
    gate.add_permits(100);
    book.wait_for(6).await;
    log.wait_until("select count(distinct position) from event_box.cursors where position > 0", 1).await;
    running.stop().await.unwrap();
    for key in &keys {
        assert_eq!(book.of_key(key), [1, 2], "{key}");
    }
    log.close().await;
}

/// After the token no further event begins; what runs is finished and counts, and nothing of it comes again.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_runs_and_begins_nothing() {
    let log = TestLog::new().await;
    let keys = keys_of_one_partition(&log.pool, 3).await;
    // One key has far more to do than the others, whose events come last.
    emit(&log, &keys[..1], 1..=50).await;
    emit(&log, &keys[1..], 1..=1).await;
    let book = Book::leaked();
    let gate = gate();
    let gated = Consumer::builder(&log.pool, "g").state((book, gate)).concurrent(8).on(waits_at_the_gate);
    let running = Running::start(gated.build().unwrap());
    book.wait_until("three at work", |book| book.at_work.lock().unwrap().len() == 3).await;
    running.shutdown.cancel();
    gate.add_permits(1_000);
    running.ended().await.unwrap();
    assert_eq!(book.ended.lock().unwrap().len(), 3, "one of each key");
    // Those that were left before the last that began wait, due at once and blameless.
    assert_eq!(log.number("select count(*) from event_box.parked where attempts = 0 and error is null").await, 49);
    let running =
        Running::start(Consumer::builder(&log.pool, "g").state(book).concurrent(8).on(waits).build().unwrap());
    book.wait_for(52).await;
    running.stop().await.unwrap();
    assert_eq!(book.of_key(&keys[0]), (1..=50).collect::<Vec<_>>());
    assert_eq!((book.of_key(&keys[1]), book.of_key(&keys[2])), (vec![1], vec![1]));
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

/// What begins first is what stands first: else most of a long page would be parked where a round ends early.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_begin_in_the_order_of_the_log() {
    let log = TestLog::new().await;
    let keys = keys_of_one_partition(&log.pool, 200).await;
    emit(&log, &keys, 1..=1).await;
    let book = Book::leaked();
    let gate = gate();
    let consumer =
        Consumer::builder(&log.pool, "g").state((book, gate)).concurrent(4).on(waits_at_the_gate).build().unwrap();
    let running = Running::start(consumer);
    book.wait_until("four at work", |book| book.at_work.lock().unwrap().len() == 4).await;
    running.shutdown.cancel();
    gate.add_permits(1_000);
    running.ended().await.unwrap();
    let mut ended: Vec<_> = book.ended.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
    let mut first = keys[..4].to_vec();
    ended.sort();
    first.sort();
    assert_eq!(ended, first);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

/// An event that became visible late stands before a parked one of its key, which is due: neither waits for the other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_and_a_retry_behind_it_both_go_out() {
    let log = TestLog::new().await;
    let keys = many_keys(1);
    let mut late = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *late, &Counted { key: keys[0].clone(), n: 1 }).await.unwrap();
    emit(&log, &keys, 2..=2).await;
    let book = Book::leaked();
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .state(book)
            .concurrent(4)
            .on(async |event: Counted, cx: &mut Detached<'_, &'static Book>| -> Result<(), BoxError> {
                let _at_work = cx.state().begin(&event);
                if event.n == 2 && cx.attempt() <= 2 {
                    return Err("twice".into());
                }
                cx.state().end(&event);
                Ok(())
            })
            .backoff(Backoff::fixed(Duration::from_secs(2)))
            .build()
            .unwrap()
    };
    let running = Running::start(consumer());
    log.wait_until("select count(*) from event_box.parked where reason = 'failed'", 1).await;
    running.stop().await.unwrap();
    log.sql("update event_box.parked set due_at = now() - interval '1 second'").await;
    late.commit().await.unwrap();
    let running = Running::start(consumer());
    book.wait_for(2).await;
    log.wait_until("select (not exists (select from event_box.parked))::int::bigint", 1).await;
    running.stop().await.unwrap();
    assert_eq!(book.of_key(&keys[0]), [1, 2]);
    log.close().await;
}
