//! What moves delayed events into the log: one at a time of all that there are.

use std::time::Duration;

use event_box::{Consumer, Pull, PullBuilder};
use event_box_tests::{Counted, Logged, PATIENCE, Running, TestLog, wait_until_seen};
use sqlx::postgres::PgPoolOptions;

use crate::{
    delayed::{DELAYED, HOUR, LOGGED, SOON, counted, log_with_seen, note, numbers, start},
    processes::Member,
};

/// Handles of their own: each has a mover, as if it were a process.
#[tokio::test(flavor = "multi_thread")]
async fn many_movers_move_each_event_once() {
    let log = log_with_seen().await;
    let running: Vec<_> = (0..4).map(|_| start(&log.pool)).collect();
    let members = [Member::spawn(&log, "g", "one", 1), Member::spawn(&log, "g", "two", 1)];
    let mut tasks = tokio::task::JoinSet::new();
    for emitter in 0..4 {
        let (pool, outbox) = (log.pool.clone(), log.outbox.clone());
        tasks.spawn(async move {
            for i in 0..1_000_i64 {
                let delay = Duration::from_millis(1 + (i * 7_919 % 1_500) as u64);
                let event = counted(&format!("{emitter}-{i}"), i);
                outbox.emit(&pool, &event).delay(delay).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    wait_until_seen(&log.pool, "g", 4_000).await;
    log.wait_until("select 1 - count(*) from event_box.delayed", 1).await;
    for running in running {
        running.stop().await.unwrap();
    }
    assert!(members.into_iter().all(|member| member.terminate().success()));
    assert_eq!(log.number(LOGGED).await, 4_000);
    assert_eq!(log.number("select count(distinct id) from event_box.events").await, 4_000);
    assert_eq!(log.number("select count(*) from seen").await, 4_000);
    log.close().await;
}

/// Its statement stands still in the middle while the session is ended, then the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_dies_in_the_middle_loses_and_doubles_nothing() {
    let log = log_with_seen().await;
    log.sql(
        "create function public.gate() returns trigger language plpgsql as $$
         begin if new.partition_key = 'k150' then perform pg_advisory_xact_lock_shared(77); end if; return new; end $$;
         create trigger gate before insert on event_box.events for each row execute function public.gate()",
    )
    .await;
    let mut gate = log.pool.acquire().await.unwrap();
    sqlx::query("select pg_advisory_lock(77)").execute(&mut *gate).await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    for n in 0..300 {
        log.outbox.emit(&mut *tx, &counted(&format!("k{n}"), n)).delay(Duration::from_millis(1)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let stands = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'";
    let victim = Member::spawn(&log, "g", "victim", 1);
    log.wait_until(stands, 1).await;
    drop(victim);
    let survivor = Member::spawn(&log, "g", "survivor", 1);
    for _ in 0..3 {
        // Taken by the next try, as by another process.
        log.wait_until(stands, 1).await;
        log.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and wait_event = 'advisory'",
        )
        .await;
    }
    assert_eq!((log.number(LOGGED).await, log.number(DELAYED).await), (0, 300));
    sqlx::query("select pg_advisory_unlock(77)").execute(&mut *gate).await.unwrap();
    wait_until_seen(&log.pool, "g", 300).await;
    assert!(survivor.terminate().success());
    assert_eq!((log.number(LOGGED).await, log.number(DELAYED).await), (300, 0));
    assert_eq!(numbers(&log.pool).await, (0..300).collect::<Vec<_>>());
    drop(gate);
    log.close().await;
}

/// The move itself announces them: the poll would come an hour later.
#[tokio::test]
async fn a_move_wakes_consumers_and_needs_no_poll() {
    let log = log_with_seen().await;
    let running = Running::start(Consumer::builder(&log.pool, "g").on(note).poll_interval(HOUR).build().unwrap());
    let listening = "select count(*) from pg_stat_activity where datname = current_database() and query like 'LISTEN%' and state = 'idle'";
    log.wait_until(listening, 1).await;
    for n in 1..=3 {
        log.outbox.emit(&log.pool, &counted("k", n)).delay(SOON).await.unwrap();
        // A look is made every half minute anyway.
        let seen = tokio::time::timeout(Duration::from_secs(25), wait_until_seen(&log.pool, "g", n));
        seen.await.expect("the move wakes the consumer");
    }
    running.stop().await.unwrap();
    log.close().await;
}

/// It has the poll's, which is there already.
#[tokio::test]
async fn a_mover_needs_no_connection_of_its_own() {
    let log = log_with_seen().await;
    let pool = PgPoolOptions::new().max_connections(4).connect(log.url()).await.unwrap();
    let running = Running::start(Consumer::builder(&pool, "g").on(note).workers(1).build().unwrap());
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    wait_until_seen(&log.pool, "g", 1).await;
    let mut others = Vec::new();
    while others.len() < 3 {
        others.push(tokio::time::timeout(PATIENCE, pool.acquire()).await.unwrap().unwrap());
    }
    log.outbox.emit(&log.pool, &counted("k", 2)).delay(SOON).await.unwrap();
    log.wait_until(LOGGED, 2).await;
    drop(others);
    wait_until_seen(&log.pool, "g", 2).await;
    running.stop().await.unwrap();
    pool.close().await;
    log.close().await;
}

#[tokio::test]
async fn a_pull_that_waits_moves_what_is_due() {
    let log = TestLog::new().await;
    let pull: Pull = PullBuilder::new(&log.pool, "p").event::<Counted>().open().await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).delay(SOON).await.unwrap();
    tokio::time::timeout(PATIENCE, pull.wait()).await.expect("it is woken").unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    assert!(pull.next(&mut tx).await.unwrap().is_some());
    tx.commit().await.unwrap();
    log.close().await;
}

/// Somebody locks the log for a while: said once when it begins and once when it is over; the poll goes on.
#[tokio::test]
async fn a_lock_in_the_way_is_said_once_and_stalls_no_poll() {
    let logged = Logged::here();
    let log = log_with_seen().await;
    let running = start(&log.pool);
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let mut lock = log.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table event_box.events in share mode").execute(&mut *lock).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).delay(Duration::from_millis(1)).await.unwrap();
    let failed = "delayed events cannot be moved into the log, trying on";
    logged.wait_for(failed, 1).await;
    logged.wait_for_statements("pg_try_advisory_xact_lock", 3).await;
    lock.rollback().await.unwrap();
    wait_until_seen(&log.pool, "g", 1).await;
    logged.wait_for("delayed events are moved into the log again", 1).await;
    running.stop().await.unwrap();
    let alarms = logged.alarms();
    assert_eq!(alarms.len(), 1, "{alarms:#?}");
    assert!(alarms[0].fields["error"].contains("lock timeout"), "{alarms:#?}");
    log.close().await;
}
