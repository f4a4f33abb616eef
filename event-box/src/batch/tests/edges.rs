//! Where two rules meet: outages and attempts, undone batches and savepoints, looks and polls.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use futures_core::future::BoxFuture;
use sqlx::Connection;
use tokio::time::Instant;

use super::{super::*, counted, partition_of};
use crate::{
    Consumer, Context, Event, EventBox, Failure, Outbox,
    group::Start,
    process::Process,
    test_log::{Counted, TestLog},
    work::Work,
};

type Call = fn(&str, i64, usize) -> Result<(), Failure>;

/// Answers as the script says, by key, number and how often it was called for it.
struct Script {
    topics: Vec<String>,
    calls: Mutex<HashMap<(String, i64), usize>>,
    handled: Mutex<Vec<String>>,
    sql: bool,
    call: Call,
}

impl Script {
    fn new(sql: bool, call: Call) -> Self {
        Self { topics: vec![Counted::TOPIC.to_owned()], calls: Mutex::default(), handled: Mutex::default(), sql, call }
    }

    fn handled(&self) -> Vec<String> {
        self.handled.lock().unwrap().clone()
    }
}

impl Dispatch for Script {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let record = &work.records[0];
            let event = Counted::decode(&record.topic, record.version, &record.payload)?;
            let call = {
                let mut calls = self.calls.lock().unwrap();
                let call = calls.entry((event.key.clone(), event.n)).or_default();
                *call += 1;
                *call
            };
            let state = ();
            let mut cx = Context::new(work, &state);
            if event.key == "swallows" {
                let _ = sqlx::raw_sql("select 1 / 0").execute(&mut cx).await;
                return Ok(());
            }
            if event.key == "rejects-sql" {
                return sqlx::raw_sql("select 1")
                    .execute(&mut cx)
                    .await
                    .map(drop)
                    .map_err(|e| Failure::Reject(e.into()));
            }
            if self.sql {
                sqlx::raw_sql("select pg_current_xact_id()").execute(&mut cx).await?;
            }
            (self.call)(&event.key, event.n, call)?;
            self.handled.lock().unwrap().push(format!("{}{}", event.key, event.n));
            Ok(())
        })
    }
}

/// Keys that live in one partition.
async fn keys_of_one_partition(log: &TestLog, n: usize) -> (i16, Vec<String>) {
    let keys: Vec<String> = sqlx::query_scalar(
        "select 'k' || i from generate_series(1, 2000) as i where (hashtextextended('k' || i, 0) & 63) = 7 limit $1",
    )
    .bind(n as i64)
    .fetch_all(&log.pool)
    .await
    .unwrap();
    (7, keys)
}

async fn number(log: &TestLog, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&log.pool).await.unwrap()
}

#[expect(clippy::too_many_arguments)]
async fn run(
    log: &TestLog,
    partition: i16,
    script: &Script,
    policy: &Policy,
    events: usize,
    suspect: Option<i64>,
    process: Option<&Process>,
    commit: bool,
) -> Done {
    let mut connection = log.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let partition = Partition { schema: &log.schema, group: "g", number: partition };
    let assignment = Assignment { rows: 1000, events, verdicts: Verdicts::new(), suspect };
    let batch = Batch {
        partition,
        watch: process.map(|process| Watch { process, pool: &log.pool }),
        dispatch: script,
        policy,
        shutdown: &CancellationToken::new(),
        assignment: &assignment,
        ran: &Ran::default(),
    };
    let done = batch.run(&mut tx).await.unwrap().unwrap();
    if commit { tx.commit().await } else { tx.rollback().await }.unwrap();
    done
}

async fn set_mode(log: &TestLog) {
    sqlx::query("update event_box.consumer_groups set mode = 'all_or_nothing'").execute(&log.pool).await.unwrap();
}

async fn three(log: &TestLog) -> (i16, Vec<String>) {
    let (partition, keys) = keys_of_one_partition(log, 2).await;
    let outbox = Outbox::new();
    for (key, n) in [(0, 1), (0, 2), (1, 1)] {
        outbox.emit(&log.pool, &counted(&keys[key], n)).await.unwrap();
    }
    (partition, keys)
}

/// the suspect, asked again, rejects: those parked behind it in this batch are never due.
#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_suspect_that_is_rejected_when_asked_again_go_on() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let (partition, keys) = three(&log).await;
    assert_eq!(keys[0], "k88", "the script below names it");
    let script = Script::new(true, |key, n, call| match (key, n, call) {
        ("k88", 1, 1) => Err(Failure::Unavailable("down".into())),
        ("k88", 1, _) => Err(Failure::Reject("bad request".into())),
        _ => Ok(()),
    });
    let policy = Policy::default();
    let suspect = number(&log, "select min(sequence) from event_box.events").await;
    run(&log, partition, &script, &policy, 1000, Some(suspect), None, true).await;
    for _ in 0..3 {
        run(&log, partition, &script, &policy, 1000, None, None, true).await;
    }
    let stuck = number(&log, "select count(*) from event_box.parked where dead_at is null and due_at is null").await;
    assert_eq!((stuck, script.handled().len()), (0, 2), "{:?}", script.handled());
    log.close().await;
}

/// the suspect's last attempt: its key goes on in this batch, then it is asked again and handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_asked_again_is_not_handled_after_later_events_of_its_key() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let (partition, keys) = three(&log).await;
    assert_eq!(keys[0], "k88");
    let script = Script::new(true, |key, n, call| match (key, n, call) {
        ("k88", 1, 1) => Err(Failure::Unavailable("down".into())),
        _ => Ok(()),
    });
    let policy = Policy { max_attempts: 1, ..Policy::default() };
    let suspect = number(&log, "select min(sequence) from event_box.events").await;
    for round in 0..3 {
        run(&log, partition, &script, &policy, 1000, (round == 0).then_some(suspect), None, true).await;
    }
    let of_key: Vec<_> = script.handled().into_iter().filter(|event| event.starts_with("k88")).collect();
    assert_eq!(of_key, ["k881", "k882"]);
    log.close().await;
}

/// all or nothing: the suspect is not asked again, and is charged though the outage is over.
#[tokio::test(flavor = "multi_thread")]
async fn all_or_nothing_asks_the_suspect_again() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    set_mode(&log).await;
    let (partition, keys) = three(&log).await;
    assert_eq!(keys[0], "k88");
    let script = Script::new(true, |key, n, call| match (key, n, call) {
        ("k88", 1, 1) => Err(Failure::Unavailable("down".into())),
        _ => Ok(()),
    });
    let policy = Policy { mode: Mode::AllOrNothing, ..Policy::default() };
    let suspect = number(&log, "select min(sequence) from event_box.events").await;
    let done = run(&log, partition, &script, &policy, 1000, Some(suspect), None, true).await;
    assert_eq!(done.failures.len(), 0, "{:?}", done.failures);
    log.close().await;
}

/// The same where it is refused however often it is asked: it ends.
#[tokio::test(flavor = "multi_thread")]
async fn all_or_nothing_asks_the_suspect_again_only_once() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    set_mode(&log).await;
    let (partition, keys) = three(&log).await;
    assert_eq!(keys[0], "k88");
    let script = Script::new(true, |key, n, _| match (key, n) {
        ("k88", 1) => Err(Failure::Unavailable("down".into())),
        _ => Ok(()),
    });
    let policy = Policy { mode: Mode::AllOrNothing, ..Policy::default() };
    let suspect = number(&log, "select min(sequence) from event_box.events").await;
    let done = run(&log, partition, &script, &policy, 1000, Some(suspect), None, true).await;
    assert_eq!((done.failures.len(), done.handled), (1, 1));
    assert_eq!(number(&log, "select count(*) from event_box.parked").await, 2);
    log.close().await;
}

/// a swallowed error of a neighbour in all-or-nothing: an innocent event is a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn all_or_nothing_rejects_no_innocent_event_for_a_neighbours_swallowed_error() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    set_mode(&log).await;
    // Without a key of one partition: three events of keys that are moved into one.
    let outbox = Outbox::new();
    outbox.emit(&log.pool, &counted("swallows", 1)).await.unwrap();
    let partition = partition_of(&log, "swallows").await;
    let key: String = sqlx::query_scalar(
        "select 'x' || i from generate_series(1, 2000) as i where (hashtextextended('x' || i, 0) & 63) = $1 limit 1",
    )
    .bind(partition)
    .fetch_one(&log.pool)
    .await
    .unwrap();
    // Its payload says how it behaves.
    sqlx::query("insert into event_box.events (id, topic, partition_key, payload) values (gen_random_uuid(), 'counted', $1, '{\"key\":\"rejects-sql\",\"n\":1}')")
        .bind(&key)
        .execute(&log.pool)
        .await
        .unwrap();
    let script = Script::new(true, |_, _, _| Ok(()));
    let policy = Policy { mode: Mode::AllOrNothing, ..Policy::default() };
    run(&log, partition, &script, &policy, 1000, None, None, true).await;
    assert_eq!(number(&log, "select count(*) from event_box.parked where partition_key <> 'swallows'").await, 0);
    log.close().await;
}

/// careful, all or nothing: two events go in one transaction; both are named when the process dies.
#[tokio::test(flavor = "multi_thread")]
async fn careful_all_or_nothing_begins_one_event_a_transaction() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    set_mode(&log).await;
    let (partition, keys) = three(&log).await;
    assert_eq!(keys[0], "k88");
    sqlx::raw_sql("update event_box.cursors set careful = 5").execute(&log.pool).await.unwrap();
    let process = Process::new(EventBox::from(&log), "g".to_owned());
    let script = Script::new(true, |key, n, _| match (key, n) {
        ("k88", 1) => Err(Failure::Retry("no".into())),
        _ => Ok(()),
    });
    let policy = Policy { mode: Mode::AllOrNothing, ..Policy::default() };
    run(&log, partition, &script, &policy, 1000, None, Some(&process), false).await;
    assert_eq!(number(&log, "select count(*) from event_box.starts").await, 1);
    log.close().await;
}

async fn outage(event: Counted, _: &mut Context<'_>) -> Result<(), Failure> {
    match event.n {
        1 => Err(Failure::Unavailable("this event alone".into())),
        2 => Err(Failure::Reject("bad".into())),
        _ => Ok(()),
    }
}

/// poison that says `Unavailable`, beside it in its partition only an event that is rejected: the whole group stands still.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_beside_events_that_fail_otherwise_does_not_stall_the_group() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let (_, keys) = keys_of_one_partition(&log, 2).await;
    let outbox = Outbox::new();
    outbox.emit(&log.pool, &counted(&keys[0], 1)).await.unwrap();
    outbox.emit(&log.pool, &counted(&keys[1], 2)).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g").on(outage).build().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    for n in 10..40 {
        outbox.emit(&log.pool, &counted(&format!("k{n}"), n)).await.unwrap();
    }
    let parked = async || number(&log, "select count(*) from event_box.parked").await;
    let moved = async || {
        number(&log, "select count(*) from event_box.events as e join event_box.cursors as c using (partition) where e.sequence <= c.position").await
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while (parked().await, moved().await) != (2, 32) {
        assert!(Instant::now() < deadline, "{} parked, {} moved", parked().await, moved().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    log.close().await;
}

/// While it is not known whether another process died, the consumer spins.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_another_process_to_take_back_does_not_spin() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    Outbox::new().emit(&log.pool, &counted("k", 3)).await.unwrap();
    sqlx::raw_sql(
        "update event_box.cursors set careful = 5;
         insert into event_box.starts (group_name, partition, sequence, instance) select 'g', partition, sequence, gen_random_uuid() from event_box.events",
    )
    .execute(&log.pool)
    .await
    .unwrap();
    let consumer =
        Consumer::builder(&log.pool, "g").retention(None).dead_letter_retention(None).on(outage).build().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let claims = number(&log, "select n_tup_upd from pg_stat_user_tables where relname = 'cursors'").await - 64;
    assert!(claims < 60, "{claims} claims in 3 s");
    log.close().await;
}

/// Erasing what was erased before rolls back its locks, which looks like a death.
#[tokio::test(flavor = "multi_thread")]
async fn erasing_twice_does_not_look_like_a_death() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let outbox = Outbox::new();
    for n in 1..4 {
        outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let partition = partition_of(&log, "k").await;
    let sequence = number(&log, "select min(sequence) from event_box.events").await;
    for _ in 0..2 {
        let _ = EventBox::from(&log).event(sequence).erase().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let process = Process::new(EventBox::from(&log), "g".to_owned());
    let script = Script::new(false, |_, _, _| Ok(()));
    let done = run(&log, partition, &script, &Policy::default(), 1000, None, Some(&process), true).await;
    assert_eq!(done.handled, 2, "one at a time: a death was seen");
    log.close().await;
}
