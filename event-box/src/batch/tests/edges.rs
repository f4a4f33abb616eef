//! Where two rules meet: outages and attempts, undone batches and savepoints, pulls and cursors.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use futures_core::future::BoxFuture;
use sqlx::Connection;
use tokio::time::Instant;

use super::super::*;
use crate::{
    BoxError, Consumer, Context, Event, EventBox, Failure, Outbox, PullBuilder,
    claim::open,
    context::Delivery,
    group::Start,
    process::Process,
    test_log::{Counted, TestLog},
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

    fn deliver<'a>(&'a self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let record = delivery.record;
            let event = Counted::decode(&record.topic, record.version, &record.payload)?;
            let call = {
                let mut calls = self.calls.lock().unwrap();
                let call = calls.entry((event.key.clone(), event.n)).or_default();
                *call += 1;
                *call
            };
            let state = ();
            let mut cx = Context::new(delivery, &state);
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

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn partition_of(log: &TestLog, key: &str) -> i16 {
    sqlx::query_scalar("select (hashtextextended($1, 0) & 63)::smallint").bind(key).fetch_one(&log.pool).await.unwrap()
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
    let (opening, session) = open(&mut tx, partition).await.unwrap();
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
    let done = batch.run(&mut tx, opening, &session).await.unwrap().unwrap();
    if commit { tx.commit().await } else { tx.rollback().await }.unwrap();
    done
}

async fn set_mode(log: &TestLog) {
    sqlx::raw_sql("update event_box.consumer_groups set mode = 'all_or_nothing'").execute(&log.pool).await.unwrap();
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
    tokio::time::sleep(Duration::from_secs(20)).await;
    let parked = number(&log, "select count(*) from event_box.parked").await;
    let moved = number(&log, "select count(*) from event_box.events as e join event_box.cursors as c using (partition) where e.sequence <= c.position").await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!((parked, moved), (2, 32));
    log.close().await;
}

/// as the documentation's loop does it.
async fn pulls_in(log: &TestLog, pull: &crate::Pull, time: Duration) -> usize {
    let (end, mut rounds) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let mut tx = log.pool.begin().await.unwrap();
        let batch = pull.batch(&mut tx, 100).await.unwrap();
        assert!(batch.is_empty());
        drop(tx);
        rounds += 1;
        let _ = tokio::time::timeout_at(end, pull.wait()).await;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puller_waits_where_only_topics_of_others_lie_ahead() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").topic("mine").open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    sqlx::raw_sql("update event_box.cursors set advanced_at = now() - interval '2 minutes'")
        .execute(&log.pool)
        .await
        .unwrap();
    let rounds = pulls_in(&log, &pull, Duration::from_secs(2)).await;
    assert!(rounds < 40, "{rounds} pulls in 2 s");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puller_waits_while_another_holds_what_there_is() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    let other = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    let held = other.batch(&mut tx, 1).await.unwrap();
    assert_eq!(held.len(), 1);
    let rounds = pulls_in(&log, &pull, Duration::from_secs(2)).await;
    tx.rollback().await.unwrap();
    pull.wait().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    assert_eq!(pull.batch(&mut tx, 10).await.unwrap().len(), 1);
    drop(tx);
    assert!(rounds < 40, "{rounds} pulls in 2 s");
    log.close().await;
}

/// a person's payload is lost where a puller fails the retry.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_outlives_a_failed_pull() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut payloads = Vec::new();
    let sequence = number(&log, "select max(sequence) from event_box.events").await;
    for round in 0..3 {
        let mut tx = log.pool.begin().await.unwrap();
        let mut batch = pull.batch(&mut tx, 10).await.unwrap();
        let event = batch.next().expect("an event");
        payloads.push(String::from_utf8_lossy(event.payload()).into_owned());
        batch.fail(&mut tx, event, BoxError::from("no")).await.unwrap();
        tx.commit().await.unwrap();
        let group = EventBox::from(&log).group("g");
        if round == 0 {
            let _ = group.edit(sequence, r#"{"key":"k","n":7}"#).await.unwrap();
        } else {
            let _ = group.requeue(crate::Selection::Event(sequence)).await.unwrap();
        }
    }
    assert_eq!(payloads[1..], [r#"{"key":"k","n":7}"#, r#"{"key":"k","n":7}"#]);
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

/// The first look is slower than the first poll: what is committed later is not noticed for 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_first_look_does_not_make_the_group_sleep() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    // No notification; its sequence is taken before the consumer starts.
    let mut open = log.pool.begin().await.unwrap();
    sqlx::raw_sql(r#"select event_box.emit('counted', '{"key":"k","n":5}', 'k')"#).execute(&mut *open).await.unwrap();
    // Whatever makes a look take more than 20 ms.
    let mut lock = log.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table event_box.parked in access exclusive mode").execute(&mut *lock).await.unwrap();
    // Nor is the first poll there at once: a server that is some milliseconds away, and TLS.
    let pool = log.pool.options().clone().before_acquire(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Ok(true)
        })
    });
    let pool = pool.after_connect(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Ok(())
        })
    });
    let pool = pool.connect_with(log.pool.connect_options().as_ref().clone()).await.unwrap();
    let consumer = Consumer::builder(&pool, "g")
        .poll_interval(Duration::from_secs(1))
        .retention(None)
        .dead_letter_retention(None)
        .on(outage)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    lock.rollback().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    open.commit().await.unwrap();
    let committed = Instant::now();
    while number(&log, "select count(*) from event_box.cursors where position > 0").await == 0
        && committed.elapsed().as_secs() < 12
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waited = committed.elapsed();
    stop.cancel();
    running.await.unwrap().unwrap();
    pool.close().await;
    assert!(waited < Duration::from_secs(5), "{waited:?}");
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

/// Two batches of one partition in one transaction, a failure in the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_an_earlier_batch_of_the_transaction_keeps_the_order_of_its_key() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    for n in 1..4 {
        Outbox::new().emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let mut tx = log.pool.begin().await.unwrap();
    let mut first = pull.batch(&mut tx, 1).await.unwrap();
    let event = first.next().unwrap();
    first.fail(&mut tx, event, BoxError::from("no")).await.unwrap();
    let second = pull.batch(&mut tx, 10).await.unwrap();
    assert!(second.is_empty(), "2 and 3 wait behind 1");
    tx.commit().await.unwrap();
    assert_eq!(number(&log, "select count(*) from event_box.parked where reason = 'waiting'").await, 2);
    log.close().await;
}
