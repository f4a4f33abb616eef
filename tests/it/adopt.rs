use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use event_box::{Backoff, Consumer, Context, Erasure, EventBox, Failure, LogError, Outbox, RunError, Schema};
use event_box_dev::{Database, Server, ServerOptions};
use event_box_tests::{
    Counted, PATIENCE, Running, Seen, TestLog, assert_each_once_in_order, client, emit_next, seen_by, wait_until_seen,
};
use sqlx::PgPool;

use crate::replay::{ALL_DELIVERED, emitters};

/// A cluster of the test's own, with one database.
struct Cluster {
    pool: PgPool,
    database: Database,
    _server: Server,
}

impl Cluster {
    /// Its transaction ids begin some `ahead` later than a new cluster's.
    async fn new(ahead: u32) -> Self {
        let options = || ServerOptions::new().setting("fsync", "off").setting("autovacuum", "off");
        let started = tokio::task::spawn_blocking(move || Server::start(&options())).await.unwrap();
        let server = started.expect("a PostgreSQL of the test's own");
        let database = server.create_database("moved").await.unwrap();
        let pool = database.pool(40).await.unwrap();
        let burn =
            format!("do $$ begin for i in 1..{ahead} loop perform pg_current_xact_id(); commit; end loop; end $$");
        sqlx::raw_sql(sqlx::AssertSqlSafe(burn)).execute(&pool).await.unwrap();
        Self { pool, database, _server: server }
    }

    fn run(&self, program: &'static str, arguments: &[&str]) {
        let ran = client(program).args(arguments).arg(self.database.url()).output().unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    fn dump(&self, file: &Path) {
        self.run("pg_dump", &["--file", file.to_str().unwrap()]);
    }

    fn restore(&self, file: &Path) {
        self.run("psql", &["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file", file.to_str().unwrap()]);
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    async fn wait_until(&self, sql: &'static str, at_least: i64) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.number(sql).await < at_least {
            assert!(tokio::time::Instant::now() < deadline, "{sql}: {}", self.number(sql).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Handles so many events. The first try at every seventh fails, and every other event makes one of another key, in its own transaction.
struct Handling {
    room: AtomicUsize,
    backoff: Duration,
}

fn consumer(log: impl Into<EventBox>, group: &str, room: usize, backoff: Duration) -> Consumer {
    let handling = Arc::new(Handling { room: AtomicUsize::new(room), backoff });
    let backoff = Backoff::fixed(handling.backoff);
    Consumer::builder(log, group)
        .state(handling)
        .on(async |event: Counted, cx: &mut Context<'_, Arc<Handling>>| -> Result<(), Failure> {
            let taken = cx.state().room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1));
            taken.map_err(|_| Failure::Unavailable("no more room".into()))?;
            Seen::note("m", &event, cx).await?;
            if event.n % 7 == 0 && cx.attempt() == 1 {
                return Err(Failure::Retry("not yet".into()));
            }
            if cx.group() == "echo" && !event.key.starts_with("echo") && event.n % 2 == 0 {
                emit_next(cx.connection().await?, &format!("echo-{}", event.key)).await.map_err(Failure::Retry)?;
            }
            Ok(())
        })
        .backoff(backoff)
        .workers(2)
        .batch_size(20)
        .build()
        .unwrap()
}

const SOON: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3_600);

/// Runs two groups and emitters, brings a third, `halted`, into the middle of a pass over late events with others parked, and dumps all
/// of that while it goes on.
async fn dumped_amid_deliveries(old: &Cluster, file: &Path) {
    event_box::migrate(&old.pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&old.pool).await.unwrap();
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(&old.pool).await.unwrap();
    // Late events between others of their partition; five more that commit behind the group's back while it is halted.
    let neighbour: String = sqlx::query_scalar(
        "select 'n' || i from generate_series(1, 100000) i where hashtextextended('n' || i, 0) & 63 = hashtextextended('late', 0) & 63 limit 1",
    )
    .fetch_one(&old.pool)
    .await
    .unwrap();
    let (mut late, mut later) = (old.pool.begin().await.unwrap(), old.pool.begin().await.unwrap());
    for _ in 0..5 {
        emit_next(&mut late, "late").await.unwrap();
        emit_next(&mut later, "later").await.unwrap();
        emit_next(&mut old.pool.acquire().await.unwrap(), &neighbour).await.unwrap();
    }
    for _ in 0..8 {
        // The seventh is parked for an hour, the eighth behind it.
        emit_next(&mut old.pool.acquire().await.unwrap(), "parks").await.unwrap();
    }
    let halted = Running::start(consumer(&old.pool, "halted", usize::MAX, HOUR));
    wait_until_seen(&old.pool, "halted", 11).await;
    old.wait_until("select count(*) from event_box.parked", 2).await;
    halted.stop().await.unwrap();
    late.commit().await.unwrap();
    let halted = Running::start(consumer(&old.pool, "halted", 2, HOUR));
    old.wait_until("select count(target) from event_box.cursors", 1).await;
    halted.stop().await.unwrap();
    later.commit().await.unwrap();

    let running = ["echo", "plain"].map(|group| Running::start(consumer(&old.pool, group, usize::MAX, SOON)));
    let mut open = old.pool.begin().await.unwrap();
    emit_next(&mut open, "open").await.unwrap();
    let emitters = emitters(&old.pool, 6, 100_000, 20);
    wait_until_seen(&old.pool, "echo", 150).await;
    old.dump(file);
    drop((emitters, open));
    for running in running {
        running.stop().await.unwrap();
    }
}

const GROUPS: [&str; 3] = ["echo", "plain", "halted"];

/// Runs all groups and new emitters until all is delivered, and adopts the log meanwhile where that is asked for.
async fn deliver_the_rest(new: &Cluster, adopt: bool) {
    sqlx::raw_sql("update event_box.parked set due_at = now() where due_at is not null")
        .execute(&new.pool)
        .await
        .unwrap();
    let running = GROUPS.map(|group| Running::start(consumer(&new.pool, group, usize::MAX, SOON)));
    let mut emitters = emitters(&new.pool, 4, 10, 20);
    if adopt {
        event_box::adopt(&new.pool).await.unwrap();
    }
    while let Some(ended) = emitters.join_next().await {
        ended.unwrap();
    }
    // Both at one moment: what is retried may emit, and what that emits may be parked.
    let settled = format!("select ({ALL_DELIVERED}) * (not exists (select from event_box.parked))::int::bigint");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(settled.clone())).fetch_one(&new.pool).await.unwrap() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "not all is delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for running in running {
        running.stop().await.unwrap();
    }
    for group in GROUPS {
        assert_each_once_in_order(&new.pool, group).await;
    }
}

async fn refusal(pool: &PgPool) -> LogError {
    let ended = Running::start(consumer(pool, "plain", usize::MAX, SOON)).ended().await.unwrap_err();
    let RunError::Log(error) = ended else { panic!("{ended:?}") };
    error
}

/// Into a younger cluster, whose transaction ids the log's are ahead of.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_amid_deliveries_is_refused_adopted_and_goes_on_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump.sql");
    let old = Cluster::new(5_000).await;
    dumped_amid_deliveries(&old, &file).await;
    let new = Cluster::new(0).await;
    new.restore(&file);
    assert_eq!(new.number("select count(target) from event_box.cursors where group_name = 'halted'").await, 1);
    assert_eq!(new.number("select count(*) from event_box.parked where group_name = 'halted'").await, 2);

    let error = refusal(&new.pool).await;
    assert!(matches!(error, LogError::Foreign { .. }), "{error:?}");
    assert!(error.to_string().contains("event_box::adopt(&pool)"), "{error}");
    let events = new.number("select count(*) from event_box.events").await;
    // Open while the cursors get their new snapshot; it emits after that, and commits when they have all gone on.
    let mut open = new.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()::text").execute(&mut *open).await.unwrap();
    // Ended later than that one began: the snapshot lists it.
    sqlx::query("select pg_current_xact_id()::text").execute(&new.pool).await.unwrap();
    let adopted = event_box::adopt(&new.pool).await.unwrap();
    assert_eq!(adopted.events, events as u64);
    assert!(adopted.parked >= 8, "three of the late, the five of the later: {adopted:?}");
    let halted = "select count(*) from event_box.parked where group_name = 'halted' and partition_key = 'late'";
    assert_eq!(new.number(halted).await, 3, "those of the pass that were not reached");
    emit_next(&mut open, "late").await.unwrap();
    deliver_the_rest(&new, false).await;
    open.commit().await.unwrap();
    deliver_the_rest(&new, false).await;
    assert_eq!(new.number("select count(*) from seen where key = 'late' and n = 6").await, 3);
    assert_eq!(new.number("select count(*) from event_box.interventions where action = 'adopt'").await, 1);
    assert_eq!(event_box::adopt(&new.pool).await.unwrap().parked, 0, "nothing is owed any more");
}

/// Into a cluster whose transaction ids are ahead of the log's: nothing tells such a log from one of this cluster, and its ids mean what
/// they meant: all of them have ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_into_an_older_cluster_goes_on_exactly_and_is_adopted_while_consumers_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump.sql");
    let old = Cluster::new(0).await;
    dumped_amid_deliveries(&old, &file).await;
    for adopt in [false, true] {
        let new = Cluster::new(20_000).await;
        new.restore(&file);
        deliver_the_rest(&new, adopt).await;
    }
}

/// As logical replication leaves it.
#[tokio::test]
async fn a_copy_without_its_sequences_value_is_adopted() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let outbox = Outbox::new();
    for n in 1..=3 {
        outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n }).await.unwrap();
    }
    log.sql("select setval('event_box.events_sequence_seq', 1, false)").await;
    let error = refusal(&log.pool).await;
    assert!(matches!(error, LogError::SequenceBehind { last_value: 0, highest: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("event_box::adopt(&pool)"), "{error}");
    event_box::adopt(&log.pool).await.unwrap();
    assert!(log.number("select last_value from event_box.events_sequence_seq").await >= 3);
    log.sql("select setval('event_box.events_sequence_seq', 1000)").await;
    event_box::adopt(&log.pool).await.unwrap();
    assert!(log.number("select last_value from event_box.events_sequence_seq").await >= 1_000, "never back");
    let running = Running::start(consumer(&log.pool, "g", usize::MAX, SOON));
    outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: 4 }).await.unwrap();
    wait_until_seen(&log.pool, "g", 4).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 4])]);
    log.close().await;
}

/// A log with nothing in it but cursors.
#[tokio::test]
async fn a_cursor_of_another_cluster_is_refused_before_the_first_batch() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let running = Running::start(consumer(&log.pool, "plain", usize::MAX, SOON));
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    running.stop().await.unwrap();
    for column in ["snapshot", "target"] {
        let sql = format!(
            "update event_box.cursors set {column} = (x || ':' || x || ':')::pg_snapshot
             from (select pg_current_xact_id()::text::bigint + 1000000 as x) as far where partition = 5"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&log.pool).await.unwrap();
        let error = refusal(&log.pool).await;
        assert!(matches!(error, LogError::Foreign { .. }), "{column}: {error:?}");
        event_box::adopt(&log.pool).await.unwrap();
    }
    let running = Running::start(consumer(&log.pool, "plain", usize::MAX, SOON));
    Outbox::new().emit(&log.pool, &Counted { key: "k".to_owned(), n: 1 }).await.unwrap();
    wait_until_seen(&log.pool, "plain", 1).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// What the start could not know, the read finds out.
#[tokio::test]
async fn foreign_rows_that_arrive_while_a_consumer_runs_stop_it() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let running = Running::start(consumer(&log.pool, "g", usize::MAX, SOON));
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let mut tx = log.pool.begin().await.unwrap();
    Outbox::new().emit(&mut *tx, &Counted { key: "k".to_owned(), n: 1 }).await.unwrap();
    let foreign = "update event_box.events set xid = (pg_current_xact_id()::text::bigint + 1000000)::text::xid8";
    sqlx::query(foreign).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let error = running.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Log(LogError::Foreign { .. })), "{error:?}");
    log.close().await;
}

/// Everything that moves a group or touches the log by hand, where another log lies beside it.
#[tokio::test]
async fn another_schemas_log_is_moved_erased_and_adopted_alone() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let other = EventBox::in_schema(log.pool.clone(), Schema::new("Other-log").unwrap());
    event_box::migrate(&other).await.unwrap();
    for n in 1..=3 {
        log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: 100 + n }).await.unwrap();
        other.outbox().emit(&log.pool, &Counted { key: "k".to_owned(), n }).await.unwrap();
    }
    let running = Running::start(consumer(&other, "g", usize::MAX, SOON));
    wait_until_seen(&log.pool, "g", 3).await;
    assert_eq!(event_box::adopt(&other).await.unwrap().events, 3);
    assert!(matches!(other.event(2).erase().await.unwrap(), Erasure::Erased { parked: 0 }));
    other.group("g").replay_all().await.unwrap();
    wait_until_seen(&log.pool, "g", 5).await;
    other.group("g").replay_since(SystemTime::UNIX_EPOCH).await.unwrap();
    wait_until_seen(&log.pool, "g", 7).await;
    other.group("g").forward_to_now().await.unwrap();
    assert_eq!(other.group("g").forward_and_clear_parked().await.unwrap(), 0);
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 1, 3, 1, 3])]);
    assert_eq!(log.number("select count(*) from event_box.interventions").await, 0);
    assert_eq!(log.number("select count(*) from event_box.events where xid <> '0' and erased_at is null").await, 3);
    log.close().await;
}
