mod book;
mod claims;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box::{
    Backoff, BoxError, BuildError, Concurrent, Consumer, Detached, EventBox, Failure, Handle, Middleware, Mode, Next,
    RunError,
};
use event_box_tests::{Counted, Running, Tallied, TestLog, keys_of_one_partition};
use tokio::sync::Semaphore;

use self::book::Book;

async fn waits(event: Counted, cx: &mut Detached<'_, &'static Book>) -> Result<(), BoxError> {
    let _at_work = cx.state().begin(&event);
    tokio::time::sleep(Duration::from_millis(20)).await;
    cx.state().end(&event);
    Ok(())
}

async fn emit(log: &TestLog, keys: &[String], numbers: std::ops::RangeInclusive<i64>) {
    let events: Vec<_> = numbers.flat_map(|n| keys.iter().map(move |key| Counted { key: key.clone(), n })).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
}

fn many_keys(n: usize) -> Vec<String> {
    (1..=n).map(|i| format!("key{i}")).collect()
}

type Gated = (&'static Book, &'static Semaphore);

fn gate() -> &'static Semaphore {
    Box::leak(Box::new(Semaphore::new(0)))
}

/// Waits for a permit of the test's.
async fn waits_at_the_gate(event: Counted, cx: &mut Detached<'_, Gated>) -> Result<(), BoxError> {
    let (book, gate) = *cx.state();
    let _at_work = book.begin(&event);
    gate.acquire().await?.forget();
    book.end(&event);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_handlers_as_allowed_run_at_once_and_each_key_is_in_order() {
    let log = TestLog::new().await;
    let keys = many_keys(100);
    emit(&log, &keys, 1..=10).await;
    let (book, gate) = (Book::leaked(), gate());
    let builder = Consumer::builder(&log.pool, "g").state((book, gate)).concurrent(32);
    let running = Running::start(builder.on(waits_at_the_gate).build().unwrap());
    book.wait_until("32 at work", |book| book.at_work.lock().unwrap().len() == 32).await;
    gate.add_permits(1_000);
    book.wait_for(1_000).await;
    running.stop().await.unwrap();
    for key in &keys {
        assert_eq!(book.of_key(key), (1..=10).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!(book.most.load(Ordering::Relaxed), 32);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

async fn bad_tempered(event: Counted, cx: &mut Detached<'_, &'static Book>) -> Result<(), Failure> {
    let _at_work = cx.state().begin(&event);
    tokio::task::yield_now().await;
    if event.n == 2 && cx.attempt() == 1 {
        match event.key.as_str() {
            "fails" => return Err("once".into()),
            "panics" => panic!("once"),
            "slow" => std::future::pending().await,
            "rejects" => return Err(Failure::Reject("never".into())),
            _ => {}
        }
    }
    cx.state().end(&event);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_is_parked_and_its_key_waits() {
    let log = TestLog::new().await;
    let keys = ["fails", "panics", "slow", "rejects", "fine"].map(str::to_owned);
    emit(&log, &keys, 1..=4).await;
    let book = Book::leaked();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(book)
        .concurrent(8)
        .on(bad_tempered)
        .handler_timeout(Duration::from_secs(1))
        .backoff(Backoff::fixed(Duration::from_millis(100)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    book.wait_for(19).await;
    log.wait_until("select (count(*) = 1)::int::bigint from event_box.parked", 1).await;
    running.stop().await.unwrap();
    for key in &keys {
        let expected: &[i64] = if key == "rejects" { &[1, 3, 4] } else { &[1, 2, 3, 4] };
        assert_eq!(book.of_key(key), expected, "{key}");
    }
    let dead: (String, i32, String) =
        sqlx::query_as("select partition_key, attempts, error from event_box.parked where dead_at is not null")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!(dead, ("rejects".to_owned(), 1, "never".to_owned()));
    log.close().await;
}

/// Some keys' other side is down for a while: nothing is held against their events, and none is lost or handled again.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_burns_no_attempt_and_loses_nothing() {
    struct Side {
        book: &'static Book,
        refusals: AtomicUsize,
    }
    let log = TestLog::new().await;
    let keys = many_keys(50);
    emit(&log, &keys, 1..=4).await;
    let side: &'static Side = Box::leak(Box::new(Side { book: Book::leaked(), refusals: AtomicUsize::new(3) }));
    let consumer = Consumer::builder(&log.pool, "g")
        .state(side)
        .concurrent(16)
        .on(async |event: Counted, cx: &mut Detached<'_, &'static Side>| -> Result<(), Failure> {
            let side = cx.state();
            let _at_work = side.book.begin(&event);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..5))).await;
            let down = event.n == 2
                && side.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            if down {
                return Err(Failure::Unavailable("for a while".into()));
            }
            side.book.end(&event);
            Ok(())
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    side.book.wait_for(200).await;
    log.wait_until("select (not exists (select from event_box.parked))::int::bigint", 1).await;
    running.stop().await.unwrap();
    for key in &keys {
        assert_eq!(side.book.of_key(key), [1, 2, 3, 4], "{key}");
    }
    log.close().await;
}

/// What comes later does not overtake what waits, and what waits goes on when its turn has come.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_emitted_behind_a_parked_event_waits_for_it() {
    let log = TestLog::new().await;
    let keys = many_keys(1);
    emit(&log, &keys, 1..=1).await;
    let book = Book::leaked();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(book)
        .concurrent(4)
        .on(async |event: Counted, cx: &mut Detached<'_, &'static Book>| -> Result<(), BoxError> {
            let _at_work = cx.state().begin(&event);
            if event.n == 1 && cx.attempt() == 1 {
                return Err("once".into());
            }
            cx.state().end(&event);
            Ok(())
        })
        .backoff(Backoff::fixed(Duration::from_secs(3600)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked where reason = 'failed'", 1).await;
    emit(&log, &keys, 2..=4).await;
    log.wait_until("select count(*) from event_box.parked where reason = 'waiting'", 3).await;
    log.sql("update event_box.parked set due_at = clock_timestamp() where reason = 'failed'; select nextval('event_box.events_sequence_seq')").await;
    book.wait_for(4).await;
    running.stop().await.unwrap();
    assert_eq!(book.of_key(&keys[0]), [1, 2, 3, 4]);
    log.close().await;
}

/// Once the other side is down no further event begins but the probes.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_a_round() {
    let log = TestLog::new().await;
    // Of one claim: a further one would not begin anyway.
    let keys = keys_of_one_partition(&log.pool, 200).await;
    emit(&log, &keys, 1..=1).await;
    let book = Book::leaked();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(book)
        .concurrent(8)
        .on(async |event: Counted, cx: &mut Detached<'_, &'static Book>| -> Result<(), Failure> {
            let _at_work = cx.state().begin(&event);
            tokio::task::yield_now().await;
            Err(Failure::Unavailable("for good".into()))
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    // The first five probes of the suspect, and what it is compared with.
    book.wait_until("probes", |book| {
        let begun = book.begun.lock().unwrap();
        begun.iter().any(|event| begun.iter().filter(|other| *other == event).count() >= 5)
    })
    .await;
    running.stop().await.unwrap();
    let begun: std::collections::HashSet<_> = book.begun.lock().unwrap().iter().cloned().collect();
    assert!(begun.len() < 60, "{} of 200 events were begun", begun.len());
    assert_eq!(log.number("select count(*) from event_box.parked where attempts > 0").await, 0);
    log.close().await;
}

struct Mailer(Arc<AtomicUsize>);

impl Handle<&'static Book, Concurrent> for Mailer {
    type Event = Tallied;
    type Error = BoxError;

    async fn handle(&self, _: Tallied, cx: &mut Detached<'_, &'static Book>) -> Result<(), BoxError> {
        assert_eq!((cx.group(), cx.topic(), cx.version(), cx.attempt()), ("g", "test.tallied", 1, 1));
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Whatever the mode.
struct Counts(Arc<AtomicUsize>);

impl<S: Sync + 'static, M: event_box::GroupMode> Middleware<S, M> for Counts {
    async fn deliver<'c>(&self, cx: &mut M::Context<'c, S>, next: Next<'c, S, M>) -> Result<(), Failure> {
        let topic = cx.topic();
        next.run(cx).await?;
        assert!(topic.starts_with("test."));
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn structs_and_middleware_serve_concurrent_groups_too() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &Tallied { key: "k".to_owned(), n: 1 }).await.unwrap();
    emit(&log, &many_keys(2), 1..=1).await;
    let (book, mails, counted) = (Book::leaked(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let consumer = Consumer::builder(&log.pool, "g")
        .state(book)
        .concurrent(2)
        .middleware(Counts(counted.clone()))
        .handle(Mailer(mails.clone()))
        .on(waits)
        .build()
        .unwrap();
    let drained = event_box::testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, mails.load(Ordering::Relaxed), counted.load(Ordering::Relaxed)), (3, 1, 3));
    log.close().await;
}

#[tokio::test]
async fn the_mode_is_the_groups_and_a_call_changes_it() {
    let log = TestLog::new().await;
    let concurrent =
        || Consumer::builder(&log.pool, "g").state(Book::leaked()).concurrent(2).on(waits).build().unwrap();
    let running = Running::start(concurrent());
    log.wait_until("select count(*) from event_box.consumer_groups where mode = 'concurrent'", 1).await;
    running.stop().await.unwrap();
    async fn ignore(_: Counted, _: &mut event_box::Context<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    let transactional = Consumer::builder(&log.pool, "g").on(ignore).build().unwrap();
    let Err(error @ RunError::Mode { .. }) = Running::start(transactional).ended().await else { panic!() };
    assert!(error.to_string().contains("concurrent"), "{error}");
    EventBox::from(&log.pool).group("g").set_mode(Mode::Transactional).await.unwrap();
    assert!(matches!(Running::start(concurrent()).ended().await, Err(RunError::Mode { .. })));

    let refused = Consumer::builder(&log.pool, "g").state(Book::leaked()).concurrent(0).on(waits).build();
    assert!(matches!(refused, Err(BuildError::Zero { setting: "concurrent" })));
    let small =
        log.pool.options().clone().max_connections(7).connect_lazy_with(log.pool.connect_options().as_ref().clone());
    let refused = Consumer::builder(small, "g").state(Book::leaked()).concurrent(2).on(waits).build();
    assert!(matches!(refused, Err(BuildError::PoolTooSmall { needed: 8, .. })));
    log.close().await;
}

/// Random outcomes, restarts and two processes' worth of consumers: at least once, in order, and twice only where a restart cut it off.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_out_of_order_whatever_handlers_answer() {
    struct Whims {
        book: &'static Book,
        seen: Mutex<HashMap<(String, i64), u32>>,
    }
    let log = TestLog::new().await;
    let mut keys = keys_of_one_partition(&log.pool, 10).await;
    keys.extend(many_keys(30));
    let whims: &'static Whims = Box::leak(Box::new(Whims { book: Book::leaked(), seen: Mutex::default() }));
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .state(whims)
            .concurrent(12)
            .workers(2)
            .on(async |event: Counted, cx: &mut Detached<'_, &'static Whims>| -> Result<(), Failure> {
                let whims = cx.state();
                let _at_work = whims.book.begin(&event);
                let times = {
                    let mut seen = whims.seen.lock().unwrap();
                    let times = seen.entry((event.key.clone(), event.n)).or_default();
                    *times += 1;
                    *times
                };
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..4))).await;
                if times <= 2 && fastrand::u8(..) < 12 {
                    return Err(match fastrand::u8(0..6) {
                        0 => Failure::Unavailable("whim".into()),
                        1 | 2 => Failure::Snooze(Duration::from_millis(2)),
                        _ => Failure::Retry("whim".into()),
                    });
                }
                whims.book.end(&event);
                Ok(())
            })
            .backoff(Backoff::fixed(Duration::from_millis(1)))
            .max_attempts(1_000)
            .build()
            .unwrap()
    };
    let mut running = vec![Running::start(consumer()), Running::start(consumer())];
    for n in 1..=40 {
        emit(&log, &keys, n..=n).await;
        if n % 8 == 0 {
            let one = running.remove(0);
            one.stop().await.unwrap();
            running.push(Running::start(consumer()));
        }
    }
    whims.book.wait_for(40 * 40).await;
    log.wait_until("select (not exists (select from event_box.parked))::int::bigint", 1).await;
    for running in running {
        running.stop().await.unwrap();
    }
    for key in &keys {
        assert_eq!(whims.book.of_key(key), (1..=40).collect::<Vec<_>>(), "{key}");
    }
    log.close().await;
}

/// After a death a partition's events go one a transaction: a lone worker has its turn for them beside the rounds of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_needs_care_has_its_turn_beside_rounds() {
    let log = TestLog::new().await;
    let keys: Vec<String> = sqlx::query_scalar(
        "select min('k' || i) from generate_series(1, 2000) as i group by hashtextextended('k' || i, 0) & 63 limit 40",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    let book = Book::leaked();
    let consumer = || {
        let builder = Consumer::builder(&log.pool, "g").state(book).concurrent(4).workers(1).batch_size(5);
        let handler = async |event: Counted, cx: &mut Detached<'_, &'static Book>| -> Result<(), BoxError> {
            cx.state().end(&event);
            Ok(())
        };
        builder.on(handler).build().unwrap()
    };
    let drained = event_box::testing::drain(&consumer()).await.unwrap();
    assert_eq!(drained.handled, 0);
    emit(&log, &keys, 1..=30).await;
    // As a process leaves it that dies.
    let mut dies = log.pool.begin().await.unwrap();
    let claim = "select from event_box.cursors where partition = (hashtextextended($1, 0) & 63)::smallint for update";
    sqlx::query(claim).bind(&keys[0]).execute(&mut *dies).await.unwrap();
    dies.rollback().await.unwrap();
    let running = Running::start(consumer());
    book.wait_for(40 * 30).await;
    running.stop().await.unwrap();
    let first = book.ended.lock().unwrap().iter().position(|(key, _)| *key == keys[0]);
    assert!(first.is_some_and(|first| first < 600), "{first:?}");
    log.close().await;
}
