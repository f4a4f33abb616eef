use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box::{Backoff, Consumer, Context, Failure};
use event_box_tests::{Counted, Running, Seen, TestLog, seen_by, wait_until_seen};

/// Keys that live in the partition of another, or in any other.
async fn keys_beside(log: &TestLog, key: &str, same: bool) -> Vec<String> {
    sqlx::query_scalar(
        "select 'k' || i from generate_series(1, 10000) as i
         where (hashtextextended('k' || i, 0) & 63 = hashtextextended($1, 0) & 63) = $2 order by i limit 5",
    )
    .bind(key)
    .bind(same)
    .fetch_all(&log.pool)
    .await
    .unwrap()
}

async fn emit(log: &TestLog, keys: &[String], each: i64) {
    for n in 1..=each {
        for key in keys {
            log.outbox.emit(&log.pool, &Counted { key: key.clone(), n }).await.unwrap();
        }
    }
}

/// The first event of key `poison` calls the other side unavailable three times more often than an outage is believed.
async fn poison(event: Counted, cx: &mut Context<'_, Arc<AtomicUsize>>) -> Result<(), Failure> {
    if event.key == "poison" && event.n == 1 && cx.state().fetch_add(1, Ordering::Relaxed) < 15 {
        return Err(Failure::Unavailable("the mail server does not know the address".into()));
    }
    Ok(Seen::note("m", &event, cx).await?)
}

async fn poison_is_found(same_partition: bool) {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let neighbours = keys_beside(&log, "poison", same_partition).await;
    emit(&log, &["poison".to_owned()], 3).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let consumer = Consumer::builder(&log.pool, "g").state(calls.clone()).on(poison);
    let consumer = consumer.backoff(Backoff::fixed(Duration::from_secs(3600))).build().unwrap();
    let running = Running::start(consumer);
    // Once the outage is known, so that there is something to compare with.
    let deadline = tokio::time::Instant::now() + event_box_tests::PATIENCE;
    while calls.load(Ordering::Relaxed) == 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    emit(&log, &neighbours, 4).await;
    wait_until_seen(&log.pool, "g", 20).await;
    log.wait_until("select count(*) from event_box.parked where reason = 'failed'", 1).await;
    running.stop().await.unwrap();
    // The event and its probes: five alone, one before another event and one after it.
    assert_eq!(calls.load(Ordering::Relaxed), 1 + 5 + 2);
    let (attempts, error): (i32, String) =
        sqlx::query_as("select attempts, error from event_box.parked where reason = 'failed'")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!(attempts, 1);
    assert!(error.contains("another event went through") && error.ends_with("does not know the address"), "{error}");
    assert_eq!(log.number("select count(*) from event_box.parked where reason = 'waiting'").await, 2);
    let mut expected: Vec<_> = neighbours.into_iter().map(|key| (key, vec![1, 2, 3, 4])).collect();
    expected.sort();
    assert_eq!(seen_by(&log.pool, "g").await, expected);
    log.close().await;
}

#[tokio::test]
async fn an_event_that_looks_like_an_outage_is_found_beside_its_neighbours() {
    poison_is_found(true).await;
}

#[tokio::test]
async fn an_event_that_looks_like_an_outage_is_found_alone_in_its_partition() {
    poison_is_found(false).await;
}

/// What handlers were called for, and whether the other side answers.
#[derive(Default)]
struct OtherSide {
    down: AtomicBool,
    calls: Mutex<HashMap<(String, i64), usize>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

async fn call(event: Counted, cx: &mut Context<'_, Arc<OtherSide>>) -> Result<(), Failure> {
    let side = cx.state().clone();
    if side.down.load(Ordering::Relaxed) {
        let at_once = side.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        *side.calls.lock().unwrap().entry((event.key.clone(), event.n)).or_default() += 1;
        if side.calls.lock().unwrap().values().sum::<usize>() > 8 {
            side.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        }
        tokio::task::yield_now().await;
        side.at_once.fetch_sub(1, Ordering::Relaxed);
        return Err(Failure::Unavailable("connection refused".into()));
    }
    Ok(Seen::note(&cx.attempt().to_string(), &event, cx).await?)
}

async fn calls(side: &OtherSide, at_least: usize) {
    let deadline = tokio::time::Instant::now() + event_box_tests::PATIENCE;
    while side.calls.lock().unwrap().values().sum::<usize>() < at_least {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// However long it lasts: nothing is parked, no attempt is burned, one event at a time is sent, and order is kept.
#[tokio::test]
async fn an_outage_parks_nothing_and_burns_no_attempt() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let mut keys = keys_beside(&log, "k", true).await;
    keys.extend(keys_beside(&log, "k", false).await);
    emit(&log, &keys, 10).await;
    let side = Arc::new(OtherSide { down: AtomicBool::new(true), ..OtherSide::default() });
    let running = Running::start(Consumer::builder(&log.pool, "g").state(side.clone()).on(call).build().unwrap());
    // Some batches were in hand when it began; then probes, until another key has been tried.
    calls(&side, 10).await;
    side.down.store(false, Ordering::Relaxed);
    wait_until_seen(&log.pool, "g", 100).await;
    running.stop().await.unwrap();
    assert_eq!(side.most_at_once.load(Ordering::Relaxed), 1, "a probe at a time");
    assert_eq!(log.number("select count(*) from seen where member <> '1'").await, 0, "no attempt is burned");
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    for (key, numbers) in seen_by(&log.pool, "g").await {
        assert_eq!(numbers, (1..=10).collect::<Vec<i64>>(), "{key}");
    }
    log.close().await;
}

/// With nothing to compare it with, an event that is refused may be refused for good reason.
#[tokio::test]
async fn a_single_key_is_never_found_guilty_of_an_outage() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    emit(&log, &["k".to_owned()], 3).await;
    let side = Arc::new(OtherSide { down: AtomicBool::new(true), ..OtherSide::default() });
    let running = Running::start(Consumer::builder(&log.pool, "g").state(side.clone()).on(call).build().unwrap());
    calls(&side, 7).await;
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_eq!(side.calls.lock().unwrap().len(), 1, "the first of its key alone was tried");
    side.down.store(false, Ordering::Relaxed);
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3])]);
    assert_eq!(log.number("select count(*) from seen where member <> '1'").await, 0);
    log.close().await;
}
