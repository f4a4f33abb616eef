use std::{
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use event_box_tests::{Seen, TestLog, assert_each_once_in_order, emit_next, wait_until_seen};

/// A process of a consumer group, killed with the test.
pub(crate) struct Member(Child);

impl Member {
    pub(crate) fn spawn(log: &TestLog, group: &str, name: &str, workers: usize) -> Self {
        Self::start(&mut Self::command(log, group, name, workers))
    }

    fn command(log: &TestLog, group: &str, name: &str, workers: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_group-member"));
        command.args([log.url(), group, name, &workers.to_string()]);
        command
    }

    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the member starts"))
    }

    /// Asks it to stop, and waits.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        self.0.wait().expect("the member ends")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Concurrent emitters, each transaction under its keys' row locks; every tenth rolls back.
pub(crate) async fn emit_concurrently(log: &TestLog, emitters: u64, transactions: usize, keys: u64) {
    let tasks: Vec<_> = (0..emitters)
        .map(|emitter| {
            let pool = log.pool.clone();
            tokio::spawn(async move {
                for i in 0..transactions {
                    let mut tx = pool.begin().await.unwrap();
                    // Ascending, so that emitters do not deadlock.
                    let first = (emitter * 31 + i as u64 * 17) % keys;
                    for key in [first, first + 1].into_iter().filter(|key| *key < keys) {
                        emit_next(&mut tx, &format!("k{key:03}")).await.unwrap();
                    }
                    match i % 10 {
                        9 => tx.rollback().await.unwrap(),
                        _ => tx.commit().await.unwrap(),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_in_two_processes_keep_each_of_a_hundred_keys_in_order() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    let members = [Member::spawn(&log, "g", "one", 4), Member::spawn(&log, "g", "two", 4)];
    log.wait_until(LISTENING, 2).await;
    emit_concurrently(&log, 8, 400, 100).await;
    wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
    for member in members {
        assert!(member.terminate().success());
    }
    assert_each_once_in_order(&log.pool, "g").await;
    assert_eq!(log.number("select count(*) from counters where n > 0").await, 100);
    assert_eq!(log.number("select count(distinct member) from seen").await, 2, "both did some of the work");
    log.close().await;
}

/// A member that is killed in the middle of its work loses nothing: its transactions roll back, and the other goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_and_doubles_nothing() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    let survivor = Member::spawn(&log, "g", "survivor", 2);
    for round in 0..3 {
        let victim = Member::spawn(&log, "g", "victim", 2);
        let before = log.number("select count(*) from seen where member = 'victim'").await;
        emit_concurrently(&log, 4, 100, 20).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while log.number("select count(*) from seen where member = 'victim'").await == before {
            if tokio::time::Instant::now() > deadline {
                break;
            }
            emit_concurrently(&log, 1, 5, 20).await;
        }
        println!("round {round}: killed");
        drop(victim);
    }
    wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
    assert!(survivor.terminate().success());
    assert_each_once_in_order(&log.pool, "g").await;
    assert!(log.number("select count(*) from seen where member = 'victim'").await > 0);
    log.close().await;
}

/// Eight processes of one group, and what all of them print.
struct Eight {
    members: Vec<Member>,
    printed: tempfile::NamedTempFile,
}

impl Eight {
    fn start(log: &TestLog) -> Self {
        let printed = tempfile::NamedTempFile::new().unwrap();
        let members = (0..8).map(|i| {
            let append = || std::fs::OpenOptions::new().append(true).open(printed.path()).unwrap();
            Member::start(Member::command(log, "g", &format!("m{i}"), 1).stdout(append()).stderr(append()))
        });
        Self { members: members.collect(), printed }
    }

    /// Consumes with all of them, and ends them in good order.
    async fn work(self, log: &TestLog) {
        emit_concurrently(log, 2, 50, 10).await;
        wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
        // From then on they hear the signal, too.
        log.wait_until(LISTENING, 8).await;
        assert_eq!(log.number("select count(*) from event_box.consumer_groups").await, 1);
        assert_eq!(log.number("select count(*) from event_box.cursors").await, 64);
        let ended: Vec<_> = self.members.into_iter().map(|member| member.terminate().success()).collect();
        assert_eq!(std::fs::read_to_string(self.printed.path()).unwrap(), "", "no error and no warning in any of them");
        assert_eq!(ended, [true; 8]);
        assert_each_once_in_order(&log.pool, "g").await;
    }
}

const LISTENING: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and query like 'LISTEN%'";

const WAIT_FOR_A_LOCK: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_at_once_migrate_an_empty_database_and_make_one_group() {
    let log = TestLog::empty().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    // Holds up whoever would create the schema.
    let mut gate = log.pool.begin().await.unwrap();
    sqlx::raw_sql("create schema event_box").execute(&mut *gate).await.unwrap();
    let eight = Eight::start(&log);
    log.wait_until(WAIT_FOR_A_LOCK, 8).await;
    gate.rollback().await.unwrap();
    log.wait_until("select count(to_regclass('event_box.events'))", 1).await;
    eight.work(&log).await;
    assert_eq!(log.number("select count(*) from event_box.migrations where success").await, 1);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_at_once_make_one_group() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    // Holds up whoever asks whether the group is there.
    let mut gate = log.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table event_box.consumer_groups in access exclusive mode").execute(&mut *gate).await.unwrap();
    let eight = Eight::start(&log);
    log.wait_until(WAIT_FOR_A_LOCK, 8).await;
    gate.rollback().await.unwrap();
    eight.work(&log).await;
    log.close().await;
}
