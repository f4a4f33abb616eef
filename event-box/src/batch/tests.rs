mod edges;
mod runs;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_core::future::BoxFuture;
use sqlx::PgConnection;

use super::*;
use crate::{
    Event, Failure, Outbox,
    consumer::Settings,
    group::Start,
    test_log::{Counted, TestLog},
    work::Work,
};

/// Notes what it is given, and ends the batch after so many events.
struct Notebook {
    topics: Vec<String>,
    noted: Mutex<Vec<Counted>>,
    room: AtomicUsize,
}

impl Notebook {
    fn new(room: usize) -> Self {
        Self { topics: vec![Counted::TOPIC.to_owned()], noted: Mutex::default(), room: AtomicUsize::new(room) }
    }

    fn take(&self) -> Vec<Counted> {
        std::mem::take(&mut self.noted.lock().unwrap())
    }
}

impl Dispatch for Notebook {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if self.room.load(Ordering::Relaxed) == 0 {
                return Err(Failure::Unavailable("the notebook is full".into()));
            }
            self.room.fetch_sub(1, Ordering::Relaxed);
            let record = &work.records[0];
            self.noted.lock().unwrap().push(Counted::decode(&record.topic, record.version, &record.payload)?);
            Ok(())
        })
    }
}

async fn batch(
    log: &TestLog,
    connection: &mut PgConnection,
    group: &str,
    partition: i16,
    limit: usize,
    notebook: &Notebook,
) -> Option<Done> {
    let policy = Settings::default().policy;
    let assignment = Assignment { rows: limit, events: limit, verdicts: Verdicts::new(), suspect: None };
    let batch = Batch {
        partition: Partition { schema: &log.schema, group, number: partition },
        watch: None,
        dispatch: notebook,
        policy: &policy,
        shutdown: &CancellationToken::new(),
        assignment: &assignment,
        ran: &Ran::default(),
    };
    batch.run(connection).await.unwrap()
}

/// Everything that is still to deliver, partition by partition.
async fn drain(log: &TestLog, group: &str) -> Vec<Counted> {
    let notebook = Notebook::new(usize::MAX);
    for partition in 0..64 {
        loop {
            let mut tx = log.pool.begin().await.unwrap();
            let done = batch(log, &mut tx, group, partition, 7, &notebook).await.unwrap();
            tx.commit().await.unwrap();
            if !done.more {
                break;
            }
        }
    }
    notebook.take()
}

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn partition_of(log: &TestLog, key: &str) -> i16 {
    sqlx::query_scalar("select (hashtextextended($1, 0) & 63)::smallint").bind(key).fetch_one(&log.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_end_early_at_every_point_double_and_lose_nothing() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let outbox = Outbox::new();
    let partition = partition_of(&log, "k").await;
    // Late rows and fresh ones: two transactions whose sequences interleave with what is committed.
    let mut slow = log.pool.begin().await.unwrap();
    let mut slower = log.pool.begin().await.unwrap();
    for n in 0..5 {
        outbox.emit(&mut *slow, &counted("k", 100 + n)).await.unwrap();
        outbox.emit(&mut *slower, &counted("k", 200 + n)).await.unwrap();
        outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    assert_eq!(drain(&log, "g").await.len(), 5);
    slow.commit().await.unwrap();
    for n in 5..10 {
        outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let mut slower = Some(slower);
    let mut delivered = Vec::new();
    // Each batch takes one event, or none, of a page of three.
    for round in 0..60 {
        let notebook = Notebook::new(round % 2);
        let mut tx = log.pool.begin().await.unwrap();
        let done = batch(&log, &mut tx, "g", partition, 3, &notebook).await.unwrap();
        tx.commit().await.unwrap();
        delivered.extend(notebook.take().into_iter().map(|event| event.n));
        if round == 3 {
            // Into the middle of the pass over the late rows.
            slower.take().unwrap().commit().await.unwrap();
        }
        if !done.more && round > 3 && round % 2 == 1 {
            break;
        }
    }
    assert_eq!(delivered, [100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 5, 6, 7, 8, 9]);
    assert_eq!(drain(&log, "g").await, []);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_batches_and_two_partitions_in_one_transaction() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let outbox = Outbox::new();
    let keys = ["a", "b", "c", "d", "e", "f"];
    for n in 1..=4 {
        for key in keys {
            outbox.emit(&log.pool, &counted(key, n)).await.unwrap();
        }
    }
    let (first, second) = (partition_of(&log, "a").await, partition_of(&log, "b").await);
    assert_ne!(first, second);
    let notebook = Notebook::new(usize::MAX);
    let mut tx = log.pool.begin().await.unwrap();
    for partition in [first, second, first] {
        batch(&log, &mut tx, "g", partition, 2, &notebook).await.unwrap();
        // An event that commits between two batches of one transaction.
        outbox.emit(&log.pool, &counted("a", 5)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut all = notebook.take();
    all.extend(drain(&log, "g").await);
    for key in keys {
        let numbers: Vec<_> = all.iter().filter(|event| event.key == key).map(|event| event.n).collect();
        let expected: &[i64] = if key == "a" { &[1, 2, 3, 4, 5, 5, 5] } else { &[1, 2, 3, 4] };
        assert_eq!(numbers, expected, "{key}");
    }
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emit_before_a_read_in_one_transaction_is_delivered_once_after_the_commit() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let outbox = Outbox::new();
    let partition = partition_of(&log, "k").await;
    outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let notebook = Notebook::new(usize::MAX);
    let mut tx = log.pool.begin().await.unwrap();
    outbox.emit(&mut *tx, &counted("k", 2)).await.unwrap();
    assert!(batch(&log, &mut tx, "g", partition, 10, &notebook).await.unwrap().bound);
    outbox.emit(&mut *tx, &counted("k", 3)).await.unwrap();
    batch(&log, &mut tx, "g", partition, 10, &notebook).await.unwrap();
    assert_eq!(notebook.take(), [counted("k", 1)]);
    tx.commit().await.unwrap();
    assert_eq!(drain(&log, "g").await, [counted("k", 2), counted("k", 3)]);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_from_now_skips_what_is_committed_and_only_that() {
    let log = TestLog::new().await;
    let outbox = Outbox::new();
    outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut open = log.pool.begin().await.unwrap();
    outbox.emit(&mut *open, &counted("k", 2)).await.unwrap();
    outbox.emit(&log.pool, &counted("k", 3)).await.unwrap();
    log.group("g", Start::Now).await;
    open.commit().await.unwrap();
    outbox.emit(&log.pool, &counted("k", 4)).await.unwrap();
    assert_eq!(drain(&log, "g").await, [counted("k", 2), counted("k", 4)]);
    log.close().await;
}

/// Emitters that are slow, roll back, and take their xid long before they emit; workers that emit in their own transactions, take several
/// batches and partitions in one, end early and roll back: whatever happens, each group gets each event once, each key in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_loses_doubles_and_reorders_nothing() {
    let seed =
        std::env::var("EVENT_BOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("EVENT_BOX_SEED={seed}");
    let log = Arc::new(TestLog::new().await);
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(&log.pool).await.unwrap();
    sqlx::raw_sql("insert into counters select 'k' || i, 0 from generate_series(0, 9) as i")
        .execute(&log.pool)
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let groups = ["g", "h"];
    let noted: Arc<Mutex<BTreeMap<&str, Vec<Counted>>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for group in groups {
        log.group(group, Start::Beginning).await;
        for worker in 0..3 {
            let (log, stop, noted) = (log.clone(), stop.clone(), noted.clone());
            let random = fastrand::Rng::with_seed(seed ^ (worker << 8) ^ u64::from(group.as_bytes()[0]));
            tasks.spawn(random_worker(log, stop, noted, group, worker, random));
        }
    }
    let emitters: Vec<_> = (0..6)
        .map(|i| tokio::spawn(random_emitter(log.clone(), fastrand::Rng::with_seed(seed.wrapping_add(i)))))
        .collect();
    for emitter in emitters {
        emitter.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let counters: Vec<(String, i64)> =
        sqlx::query_as("select key, n from counters where n > 0 order by key").fetch_all(&log.pool).await.unwrap();
    for group in groups {
        let rest = drain(&log, group).await;
        let mut all = noted.lock().unwrap().remove(group).unwrap_or_default();
        all.extend(rest);
        for (key, n) in &counters {
            let numbers: Vec<_> = all.iter().filter(|event| event.key == *key).map(|event| event.n).collect();
            assert_eq!(numbers, (1..=*n).collect::<Vec<_>>(), "group {group}, key {key}, seed {seed}");
        }
        let total: i64 = counters.iter().map(|(_, n)| n).sum();
        assert_eq!(all.len() as i64, total, "group {group} got events that nobody emitted, seed {seed}");
    }
    Arc::into_inner(log).unwrap().close().await;
}

/// Emits the next of a key under a lock on its counter, as an application does.
async fn emit_next(connection: &mut PgConnection, key: &str) {
    let n = sqlx::query_scalar("update counters set n = n + 1 where key = $1 returning n")
        .bind(key)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    Outbox::new().emit(connection, &counted(key, n)).await.unwrap();
}

async fn random_emitter(log: Arc<TestLog>, mut random: fastrand::Rng) {
    for _ in 0..120 {
        let mut tx = log.pool.begin().await.unwrap();
        if random.u8(0..4) == 0 {
            sqlx::query("select pg_current_xact_id()::text").execute(&mut *tx).await.unwrap();
            linger(&mut tx, &mut random).await;
        }
        // Ascending, so that emitters do not deadlock.
        let first = random.u8(0..10);
        for key in first..(first + random.u8(1..4)).min(10) {
            for _ in 0..random.u8(1..6) {
                emit_next(&mut tx, &format!("k{key}")).await;
            }
        }
        if random.u8(0..3) == 0 {
            linger(&mut tx, &mut random).await;
        }
        match random.u8(0..8) {
            0 => tx.rollback().await.unwrap(),
            _ => tx.commit().await.unwrap(),
        }
    }
}

async fn linger(connection: &mut PgConnection, random: &mut fastrand::Rng) {
    sqlx::query("select pg_sleep($1)").bind(random.f64() * 0.02).execute(connection).await.unwrap();
}

async fn random_worker(
    log: Arc<TestLog>,
    stop: Arc<AtomicBool>,
    noted: Arc<Mutex<BTreeMap<&'static str, Vec<Counted>>>>,
    group: &'static str,
    worker: u64,
    mut random: fastrand::Rng,
) {
    let mut partitions = Vec::new();
    for key in 0..10 {
        partitions.push(partition_of(&log, &format!("k{key}")).await);
    }
    let own = format!("own-{group}-{worker}");
    sqlx::query("insert into counters values ($1, 0)").bind(&own).execute(&log.pool).await.unwrap();
    partitions.push(partition_of(&log, &own).await);
    while !stop.load(Ordering::Relaxed) {
        let notebook = Notebook::new(random.usize(0..12));
        let mut tx = log.pool.begin().await.unwrap();
        if random.u8(0..4) == 0 {
            emit_next(&mut tx, &own).await;
        }
        for _ in 0..random.u8(1..4) {
            let partition = partitions[random.usize(..partitions.len())];
            batch(&log, &mut tx, group, partition, random.usize(1..9), &notebook).await;
            if random.u8(0..6) == 0 {
                emit_next(&mut tx, &own).await;
            }
        }
        if random.u8(0..5) == 0 {
            tx.rollback().await.unwrap();
        } else {
            // While the claims are held: after the commit another worker may be first.
            noted.lock().unwrap().entry(group).or_default().extend(notebook.take());
            tx.commit().await.unwrap();
        }
    }
}
