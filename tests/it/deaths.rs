use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    time::Duration,
};

use event_box_tests::{Counted, Seen, TestLog, seen_by};

const SIGABRT: i32 = 6;
const SIGTERM: i32 = 15;
/// Due when the test says so.
const AN_HOUR: &str = "3600";

/// A member that is started again when it dies, as by any supervisor.
struct Supervised<'a> {
    log: &'a TestLog,
    name: &'static str,
    mode: &'static str,
    /// Seconds.
    backoff: &'static str,
    child: Child,
    deaths: usize,
}

impl<'a> Supervised<'a> {
    fn spawn(log: &'a TestLog, name: &'static str, mode: &'static str, backoff: &'static str) -> Self {
        Self { log, name, mode, backoff, child: Self::start(log, name, mode, backoff), deaths: 0 }
    }

    fn start(log: &TestLog, name: &str, mode: &str, backoff: &str) -> Child {
        let program = env!("CARGO_BIN_EXE_mortal-member");
        Command::new(program).args([log.url(), "g", name, mode, backoff]).spawn().expect("the member starts")
    }

    fn start_again(&mut self) {
        self.child = Self::start(self.log, self.name, self.mode, self.backoff);
    }

    /// Starts it again where it has aborted.
    fn look_after(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(SIGABRT), "it ended otherwise: {status}");
            self.deaths += 1;
            self.start_again();
        }
    }

    /// A deployment: asks it to stop, and starts another.
    fn replace(&mut self) {
        self.ask_to_stop();
        match self.child.wait().unwrap() {
            status if status.signal() == Some(SIGABRT) => self.deaths += 1,
            // It did not listen for the signal yet.
            status if status.signal() == Some(SIGTERM) => {}
            status => assert!(status.success(), "{status}"),
        }
        self.start_again();
    }

    fn ask_to_stop(&self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
    }
}

impl Drop for Supervised<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ten keys that live in the partition of `kills`, and that key itself in their middle.
async fn emit_neighbours(log: &TestLog, each: i64) -> Vec<String> {
    let keys: Vec<String> = sqlx::query_scalar(
        "select 'k' || i from generate_series(1, 10000) as i
         where hashtextextended('k' || i, 0) & 63 = hashtextextended('kills', 0) & 63 order by i limit 10",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    for n in 1..=each {
        let mut events: Vec<_> = keys.iter().map(|key| Counted { key: key.clone(), n }).collect();
        if (each / 2..each / 2 + 4).contains(&n) {
            events.insert(5, Counted { key: "kills".to_owned(), n: n - each / 2 + 1 });
        }
        log.outbox.emit_all(&log.pool, &events).await.unwrap();
    }
    keys
}

async fn assert_settled(log: &TestLog, keys: &[String], each: i64) {
    // What concurrent handlers wrote is seen before their round is settled.
    let settled = "select (not exists (select from event_box.parked where dead_at is null)
                           and not exists (select from event_box.starts))::int::bigint";
    log.wait_until(settled, 1).await;
    let charged: Vec<(String, i32, i32, bool)> = sqlx::query_as(
        "select partition_key, deaths, attempts, dead_at is not null from event_box.parked order by sequence",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    assert_eq!(charged, [("kills".to_owned(), 3, 0, true)], "the culprit alone");
    let all: Vec<i64> = (1..=each).collect();
    let mut expected: Vec<_> = keys.iter().map(|key| (key.clone(), all.clone())).collect();
    expected.push(("kills".to_owned(), vec![1, 3, 4]));
    expected.sort();
    assert_eq!(seen_by(&log.pool, "g").await, expected, "neighbours once and in order");
}

async fn a_killer_is_named(mode: &'static str) {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let keys = emit_neighbours(&log, 200).await;
    let mut member = Supervised::spawn(&log, "one", mode, AN_HOUR);
    let mut neighbours_through_at = None;
    while log.number("select count(*) from event_box.parked where dead_at is not null").await == 0
        || log.number("select count(distinct (key, n)) from seen").await < 2_003
    {
        member.look_after();
        let through = log.number("select count(distinct (key, n)) from seen where key <> 'kills'").await == 2_000;
        neighbours_through_at = neighbours_through_at.or(through.then_some(member.deaths));
        if through {
            log.sql(
                "with due as (update event_box.parked set due_at = now() where due_at > now() + interval '1 minute' returning 1)
                 select nextval('event_box.events_sequence_seq') from due",
            )
            .await;
        }
        assert!(member.deaths <= 4, "one death unexplained, and three of its own");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    member.look_after();
    assert_eq!(member.deaths, 4);
    assert_eq!(neighbours_through_at, Some(2), "named at the second death, the neighbours proceed");
    if mode == "concurrent" {
        // At least once: what ran beside the one that killed runs again.
        log.sql("delete from seen as again using seen as first where (first.key, first.n) = (again.key, again.n) and first.at < again.at").await;
    }
    assert_settled(&log, &keys, 200).await;
    // What went carefully is over: a partition's events go in batches again.
    log.wait_until("select count(*) from event_box.cursors where careful = 0", 64).await;
    drop(member);
    log.close().await;
}

/// Handlers that write go fifty to a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_is_named_at_the_second_death() {
    a_killer_is_named("transactional").await;
}

/// Without savepoints they go a thousand to a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_is_named_among_a_thousand() {
    a_killer_is_named("all_or_nothing").await;
}

/// While others run beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_is_named_among_concurrent_handlers() {
    a_killer_is_named("concurrent").await;
}

/// Two members, one of them replaced again and again; connections are cut; handlers say at times that the other side is down.
#[tokio::test(flavor = "multi_thread")]
async fn no_innocent_event_is_charged_beside_restarts_outages_and_lost_connections() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let keys = emit_neighbours(&log, 200).await;
    let mut members = ["one", "two"].map(|name| Supervised::spawn(&log, name, "transactional", "3"));
    let cut = "select count(pg_terminate_backend(pid)) from (
                   select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction'
                   order by random() limit 1) as victim";
    let mut cuts = 0;
    for round in 0.. {
        if log.number("select count(*) from event_box.parked where dead_at is not null").await > 0
            && log.number("select count(*) from seen").await >= 2_003
        {
            break;
        }
        members.iter_mut().for_each(Supervised::look_after);
        match round % 20 {
            5 | 15 => cuts += log.number(cut).await,
            10 => members[round / 20 % 2].replace(),
            _ if cuts == 0 => cuts += log.number(cut).await,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cuts > 0);
    assert_settled(&log, &keys, 200).await;
    drop(members);
    log.close().await;
}
