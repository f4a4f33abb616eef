//! Batches with runs get on, whatever is in their way.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_core::future::BoxFuture;
use sqlx::Connection;

use super::{super::*, counted};
use crate::{
    Failure, Outbox,
    failed::Failed,
    group::Start,
    test_log::{Counted, TestLog},
    work::Work,
};

/// What became of an event, as the handler answers it.
#[derive(Debug, PartialEq, Eq)]
enum Whim {
    Fine,
    /// The call fails.
    Fails,
    /// Named as not handled, because of a conflict with other transactions.
    Conflict,
}

/// A batch handler of the topic `counted`, a handler of single events of the topic `single`; both write.
struct Script {
    topics: Vec<String>,
    /// How long a call for several events takes.
    slow: Duration,
    batch_time: Duration,
    calls: AtomicUsize,
    whim: fn(&str, i64) -> Whim,
}

impl Script {
    fn new(whim: fn(&str, i64) -> Whim) -> Self {
        let topics = vec![Counted::TOPIC.to_owned(), "single".to_owned()];
        Self { topics, slow: Duration::ZERO, batch_time: Duration::from_secs(5), calls: AtomicUsize::new(0), whim }
    }

    /// With calls that outlast a batch.
    fn slow(whim: fn(&str, i64) -> Whim) -> Self {
        let (slow, batch_time) = (Duration::from_millis(150), Duration::from_millis(100));
        Self { slow, batch_time, ..Self::new(whim) }
    }

    /// One batch. Answers with what was handled.
    async fn batch(&self, log: &TestLog, mode: Mode) -> Vec<(String, i64)> {
        let mut connection = log.pool.acquire().await.unwrap();
        let mut tx = connection.begin().await.unwrap();
        let partition = Partition { schema: &log.schema, group: "g", number: 7 };
        let batch = Batch {
            partition,
            watch: None,
            dispatch: self,
            policy: &Policy { mode, batch_time: self.batch_time, ..Policy::default() },
            shutdown: &CancellationToken::new(),
            assignment: &Assignment { rows: 1000, events: 1000, verdicts: Verdicts::new(), suspect: None },
            ran: &Ran::default(),
        };
        let run = tokio::time::timeout(Duration::from_secs(20), batch.run(&mut tx));
        run.await.expect("the batch ends").unwrap().expect("nobody else holds it");
        tx.commit().await.unwrap();
        let sql = "select key, n from seen order by i";
        sqlx::query_as(sql).fetch_all(&log.pool).await.unwrap()
    }
}

impl Dispatch for Script {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn batch_handler(&self, topic: &str) -> Option<usize> {
        (topic == Counted::TOPIC).then_some(0)
    }

    fn has_batch_handlers(&self) -> bool {
        true
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let Work { connection, savepoint, records, answer, .. } = work;
            self.calls.fetch_add(1, Ordering::Relaxed);
            savepoint.touch(connection).await?;
            if records.len() > 1 {
                tokio::time::sleep(self.slow).await;
            }
            let mut fails = false;
            for record in records {
                let Counted { key, n } = serde_json::from_slice(&record.payload)?;
                let whim = (self.whim)(&key, n);
                fails |= whim == Whim::Fails;
                if whim == Whim::Conflict {
                    sqlx::raw_sql("savepoint own").execute(&mut *connection).await?;
                    let conflict = "do $$ begin raise exception 'again' using errcode = '40001'; end $$";
                    let error = sqlx::raw_sql(conflict).execute(&mut *connection).await.unwrap_err();
                    sqlx::raw_sql("rollback to savepoint own").execute(&mut *connection).await?;
                    answer.failed.push(Failed { sequence: record.sequence, failure: error.into() });
                } else {
                    let insert = sqlx::query("insert into seen (key, n) values ($1, $2)").bind(&key).bind(n);
                    insert.execute(&mut *connection).await?;
                }
            }
            if fails { Err("poison".into()) } else { Ok(()) }
        })
    }
}

async fn log() -> (TestLog, Vec<String>) {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    for sql in [
        "create table seen (i bigint generated always as identity, key text, n bigint)",
        "update event_box.consumer_groups set topics = '{counted,single}'",
    ] {
        sqlx::raw_sql(sql).execute(&log.pool).await.unwrap();
    }
    let keys =
        "select 'k' || i from generate_series(1, 9000) as i where (hashtextextended('k' || i, 0) & 63) = 7 limit 100";
    let keys = sqlx::query_scalar(keys).fetch_all(&log.pool).await.unwrap();
    (log, keys)
}

async fn emit(log: &TestLog, key: &str, numbers: std::ops::RangeInclusive<i64>) {
    let events: Vec<_> = numbers.map(|n| counted(key, n)).collect();
    Outbox::new().emit_all(&log.pool, &events).await.unwrap();
}

async fn emit_singles(log: &TestLog, keys: &[String]) {
    let sql = "select count(event_box.emit('single', json_build_object('key', key, 'n', 1), key)) from unnest($1::text[]) as key";
    sqlx::query(sql).bind(keys).execute(&log.pool).await.unwrap();
}

async fn number(log: &TestLog, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&log.pool).await.unwrap()
}

fn poison_is_one(_: &str, n: i64) -> Whim {
    if n == 1 { Whim::Fails } else { Whim::Fine }
}

/// The run that fails has used up the batch's time, and is still to be narrowed down.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_run_that_fails_in_an_all_or_nothing_batch_is_narrowed_down() {
    let (log, keys) = log().await;
    let mode = "update event_box.consumer_groups set mode = 'all_or_nothing'";
    sqlx::raw_sql(mode).execute(&log.pool).await.unwrap();
    for key in &keys[..8] {
        emit(&log, key, 2..=2).await;
    }
    emit(&log, &keys[8], 1..=1).await;
    let script = Script::slow(poison_is_one);
    script.batch(&log, Mode::AllOrNothing).await;
    assert_eq!(script.batch(&log, Mode::AllOrNothing).await.len(), 8);
    assert_eq!(number(&log, "select count(*) from event_box.parked where attempts = 1").await, 1);
    log.close().await;
}

/// As above where others have used up the savepoints.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_run_in_whose_way_others_stand_is_narrowed_down() {
    let (log, keys) = log().await;
    emit(&log, &keys[0], 1..=4).await;
    emit_singles(&log, &keys[1..=60]).await;
    let script = Script::slow(|key, n| if key == "k88" && n == 1 { Whim::Fails } else { Whim::Fine });
    assert_eq!(keys[0], "k88", "the script above names it");
    for _ in 0..6 {
        script.batch(&log, Mode::Transactional).await;
    }
    assert_eq!(number(&log, "select count(*) from seen").await, 60);
    assert_eq!(number(&log, "select count(*) from event_box.parked").await, 4);
    log.close().await;
}

/// Retries take the savepoints that a run of the log needs, and something of the log beyond it is parked.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_narrowed_down_where_retries_use_up_the_savepoints() {
    let (log, keys) = log().await;
    // Those that fail leave a follower behind them, and come again.
    emit_singles(&log, &keys[1..=47]).await;
    emit(&log, &keys[60], 1..=1).await;
    let fails = Script::new(|_, _| Whim::Fails);
    fails.batch(&log, Mode::Transactional).await;
    let due = "update event_box.parked set due_at = now() where topic = 'single'";
    sqlx::raw_sql(due).execute(&log.pool).await.unwrap();
    emit(&log, &keys[0], 1..=4).await;
    emit(&log, &keys[60], 2..=2).await;
    assert_eq!(keys[0], "k88", "the script below names it");
    let script = Script::new(|key, n| if key == "k88" && n == 1 { Whim::Fails } else { Whim::Fine });
    for _ in 0..2 {
        script.batch(&log, Mode::Transactional).await;
    }
    let calls = script.calls.load(Ordering::Relaxed);
    assert!(calls < 3 * 47, "{calls} calls");
    assert_eq!(number(&log, "select count(*) from seen").await, 47, "the retries");
    assert_eq!(number(&log, "select count(*) from event_box.parked where reason = 'waiting'").await, 4);
    assert_eq!(number(&log, "select count(*) from event_box.parked where reason = 'failed'").await, 2);
    log.close().await;
}

/// The first event of a run is named again and again, because of a conflict that does not pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_does_not_pass_is_a_failed_attempt() {
    let (log, keys) = log().await;
    for key in &keys[..4] {
        emit(&log, key, 1..=1).await;
    }
    assert_eq!(keys[0], "k88", "the script below names it");
    let script = Script::new(|key, _| if key == "k88" { Whim::Conflict } else { Whim::Fine });
    script.batch(&log, Mode::Transactional).await;
    assert_eq!(script.batch(&log, Mode::Transactional).await.len(), 3);
    assert_eq!(number(&log, "select count(*) from event_box.parked where attempts = 1").await, 1);
    log.close().await;
}

/// An event that became visible late stands before a parked one of its key: what waits behind that must not keep it from going out.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_before_a_parked_one_does_not_wait_for_ever() {
    let (log, keys) = log().await;
    let key = &keys[0];
    let mut late = log.pool.begin().await.unwrap();
    Outbox::new().emit(&mut *late, &counted(key, 1)).await.unwrap();
    emit(&log, key, 2..=2).await;
    Script::new(|_, _| Whim::Fails).batch(&log, Mode::Transactional).await;
    late.commit().await.unwrap();
    emit(&log, key, 3..=3).await;
    let script = Script::new(|_, _| Whim::Fine);
    script.batch(&log, Mode::Transactional).await;
    let retry = "update event_box.parked set due_at = now() where due_at is not null";
    sqlx::raw_sql(retry).execute(&log.pool).await.unwrap();
    script.batch(&log, Mode::Transactional).await;
    let handled = script.batch(&log, Mode::Transactional).await;
    assert_eq!(handled.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(number(&log, "select count(*) from event_box.parked").await, 0);
    log.close().await;
}
