use std::{
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use event_box_tests::{Seen, TestLog, assert_each_once_in_order, emit_either, emit_next, wait_until_seen};
use tokio::task::JoinSet;

const KEYS: u64 = 20;
/// How many more events flow between two steps of a deployment.
const STEP: i64 = 300;

/// A process of the service in one of its versions, killed with the test.
struct Process(Child);

impl Process {
    fn spawn(log: &TestLog, name: &str, version: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_rolling-member");
        let child = Command::new(program).args([log.url(), "g", name, version]).spawn();
        Self(child.expect("the member starts"))
    }

    /// As an orchestrator replaces it.
    fn terminate(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        self.0.wait().expect("the member ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Emitters that run all the time: events of the old topic, and once they are told so of both, under the same keys.
struct Load {
    tasks: JoinSet<()>,
    both: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Load {
    fn start(log: &TestLog) -> Self {
        let (both, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for emitter in 0..3 {
            let (pool, both, ended) = (log.pool.clone(), both.clone(), ended.clone());
            tasks.spawn(async move {
                for i in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut tx = pool.begin().await.unwrap();
                    let key = format!("k{:02}", (emitter * 7 + i) % KEYS);
                    match both.load(Ordering::Relaxed) {
                        true => emit_either(&mut tx, &key).await.unwrap(),
                        false => emit_next(&mut tx, &key).await.unwrap(),
                    };
                    match i % 10 {
                        9 => tx.rollback().await.unwrap(),
                        _ => tx.commit().await.unwrap(),
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            });
        }
        Self { tasks, both, ended }
    }

    async fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

/// Counts what was ever parked for want of a handler: a newer process takes it up at once.
async fn log() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql(
        "create table counters (key text primary key, n bigint not null);
         create table no_handler (topic text not null);
         create function note_parking() returns trigger language plpgsql as $$
         begin insert into no_handler values (new.topic); return null; end $$;
         create trigger note_parking after insert on event_box.parked
             for each row when (new.reason = 'no_handler') execute function note_parking()",
    )
    .await;
    log
}

/// Waits until so many more events were handled.
async fn flow(log: &TestLog) {
    let seen = log.number("select count(*) from seen").await;
    wait_until_seen(&log.pool, "g", seen + STEP).await;
}

const READS_BOTH: &str = "select count(*) from event_box.consumer_groups where 'test.tallied' = any(topics)";
const EMITTED: &str = "select coalesce(sum(n), 0)::bigint from counters";

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_loses_and_disorders_nothing() {
    let log = log().await;
    let load = Load::start(&log);
    let olds = [Process::spawn(&log, "old1", "old"), Process::spawn(&log, "old2", "old")];
    flow(&log).await;
    let new1 = Process::spawn(&log, "new1", "new");
    log.wait_until(READS_BOTH, 1).await;
    load.both.store(true, Ordering::Relaxed);
    log.wait_until("select count(*) from no_handler", 20).await;
    flow(&log).await;
    let [old1, old2] = olds;
    assert!(old1.terminate().success());
    flow(&log).await;
    let new2 = Process::spawn(&log, "new2", "new");
    log.wait_until("select count(*) from seen where member = 'new2'", 1).await;
    flow(&log).await;
    assert!(old2.terminate().success());
    flow(&log).await;
    load.end().await;
    wait_until_seen(&log.pool, "g", log.number(EMITTED).await).await;
    for new in [new1, new2] {
        assert!(new.terminate().success());
    }
    assert_each_once_in_order(&log.pool, "g").await;
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_eq!(log.number("select count(distinct member) from seen").await, 4, "all of them did some of the work");
    assert_eq!(log.number("select count(*) from no_handler where topic <> 'test.tallied'").await, 0);
    log.close().await;
}

/// Back to the version that does not know the new topic, while its events flow, and forward again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_lets_the_new_events_wait() {
    let log = log().await;
    let load = Load::start(&log);
    let news = [Process::spawn(&log, "new1", "new"), Process::spawn(&log, "new2", "new")];
    log.wait_until(READS_BOTH, 1).await;
    load.both.store(true, Ordering::Relaxed);
    flow(&log).await;
    let old1 = Process::spawn(&log, "old1", "old");
    let [new1, new2] = news;
    assert!(new1.terminate().success());
    flow(&log).await;
    let old2 = Process::spawn(&log, "old2", "old");
    assert!(new2.terminate().success());
    // Every key soon waits behind an event of the new topic: the old ones park all that comes.
    log.wait_until(
        "select count(*) from (select distinct on (partition_key) topic from event_box.parked order by partition_key, sequence) as heads
         where topic = 'test.tallied'",
        KEYS as i64,
    )
    .await;
    let handled = log.number("select count(*) from seen").await;
    log.wait_until("select count(*) from event_box.parked", 3 * STEP).await;
    assert_eq!(log.number("select count(*) from seen").await, handled, "nothing overtakes what waits for its handler");
    assert_eq!(log.number("select count(*) from event_box.parked where attempts > 0").await, 0, "no attempt is burned");
    let again = [Process::spawn(&log, "new3", "new"), Process::spawn(&log, "new4", "new")];
    flow(&log).await;
    for old in [old1, old2] {
        assert!(old.terminate().success());
    }
    flow(&log).await;
    load.end().await;
    wait_until_seen(&log.pool, "g", log.number(EMITTED).await).await;
    for new in again {
        assert!(new.terminate().success());
    }
    assert_each_once_in_order(&log.pool, "g").await;
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}
