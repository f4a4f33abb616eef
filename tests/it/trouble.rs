use std::time::Duration;

use event_box::{BoxError, Consumer, Context, LogError, Outbox, RunError};
use event_box_dev::{Server, ServerOptions};
use event_box_tests::{Counted, PATIENCE, Running, Seen, seen_by};
use sqlx::PgPool;

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

/// A server of the test's own, which it may stop and kill.
async fn server() -> Server {
    // Autovacuum would take transaction ids of its own.
    let start = || Server::start(&ServerOptions::new().setting("fsync", "off").setting("autovacuum", "off"));
    tokio::task::spawn_blocking(start).await.unwrap().expect("a PostgreSQL of the test's own")
}

async fn emit(pool: &PgPool, n: i64) {
    let outbox = Outbox::new();
    let event = Counted { key: "k".to_owned(), n };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // The pool finds out about its dead connections one by one.
    while let Err(error) = outbox.emit(pool, &event).await {
        assert!(tokio::time::Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_until_seen(pool: &PgPool, n: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = sqlx::query_scalar::<_, i64>("select count(*) from seen").fetch_one(pool).await;
        if seen.as_ref().is_ok_and(|seen| *seen >= n) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_outlives_its_servers_death_and_restart() {
    let server = server().await;
    let database = server.create_database("trouble").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    let running = Running::start(Consumer::builder(&pool, "g").on(note).build().unwrap());
    for n in 1..=6 {
        emit(&pool, n).await;
        wait_until_seen(&pool, n).await;
        match n {
            2 => {
                server.kill().unwrap();
                server.restart().unwrap();
            }
            4 => {
                server.stop().unwrap();
                server.restart().unwrap();
            }
            _ => {}
        }
    }
    running.stop().await.unwrap();
    assert_eq!(seen_by(&pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 4, 5, 6])]);
    pool.close().await;
    database.close().await.unwrap();
}

/// Due while the server is down, or after it came back: each once.
#[tokio::test(flavor = "multi_thread")]
async fn delayed_events_outlive_their_servers_death() {
    let server = server().await;
    let database = server.create_database("trouble").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    let running = Running::start(Consumer::builder(&pool, "g").on(note).build().unwrap());
    for n in 1..=40 {
        let event = Counted { key: "k".to_owned(), n };
        Outbox::new().emit(&pool, &event).delay(Duration::from_millis(100 * n as u64)).await.unwrap();
    }
    wait_until_seen(&pool, 1).await;
    server.kill().unwrap();
    server.restart().unwrap();
    wait_until_seen(&pool, 40).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&pool, "g").await, [("k".to_owned(), (1..=40).collect())]);
    pool.close().await;
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused() {
    let server = server().await;
    let database = server.create_database("standby").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    pool.close().await;
    server.stop().unwrap();
    let signal = server.data_dir().unwrap().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    server.restart().unwrap();
    let pool = database.pool(10).await.unwrap();
    let consumer = Consumer::builder(&pool, "g").on(note).build().unwrap();
    let error = Running::start(consumer).ended().await.unwrap_err();
    assert!(matches!(error, RunError::Log(LogError::Standby)), "{error:?}");
    let error = event_box::adopt(&pool).await.unwrap_err();
    assert!(matches!(error, LogError::Standby), "{error:?}");
    pool.close().await;
    // A primary again, so that the database can be dropped.
    std::fs::remove_file(signal).unwrap();
    server.stop().unwrap();
    server.restart().unwrap();
    database.close().await.unwrap();
}

#[tokio::test]
async fn a_consumer_waits_for_a_server_that_is_not_there_yet() {
    let server = server().await;
    let database = server.create_database("late").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    emit(&pool, 1).await;
    server.stop().unwrap();
    let lazy = sqlx::postgres::PgPoolOptions::new()
        .max_connections(10)
        .acquire_timeout(Duration::from_millis(500))
        .connect_lazy(database.url())
        .unwrap();
    let running = Running::start(Consumer::builder(&lazy, "g").on(note).build().unwrap());
    assert!(lazy.acquire().await.is_err());
    server.restart().unwrap();
    wait_until_seen(&lazy, 1).await;
    running.stop().await.unwrap();
    lazy.close().await;
    pool.close().await;
    database.close().await.unwrap();
}

/// On a server of its own, where nobody else takes transaction ids: idle groups poll and look, and take none.
#[tokio::test(flavor = "multi_thread")]
async fn idle_groups_take_no_transaction_id() {
    let server = server().await;
    let database = server.create_database("idle").await.unwrap();
    let pool = database.pool(20).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    let log = event_box::EventBox::new(pool.clone());
    let interval = Duration::from_millis(10);
    let start =
        |group: &str| Running::start(Consumer::builder(&log, group).on(note).poll_interval(interval).build().unwrap());
    let running = [start("one"), start("two")];
    let event = Counted { key: "k".to_owned(), n: 2 };
    log.outbox().emit(&pool, &event).delay(Duration::from_secs(3_600)).await.unwrap();
    emit(&pool, 1).await;
    wait_until_seen(&pool, 2).await;
    let number = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.unwrap();
    let next_xid = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    // What a backend did is counted a second later at most, and once it is idle.
    let transactions = "select xact_commit from pg_stat_database where datname = current_database()";
    let wait_for_more = async |more: i64| {
        let (from, deadline) = (number(transactions).await, tokio::time::Instant::now() + PATIENCE);
        while number(transactions).await < from + more {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Until both have settled.
    wait_for_more(200).await;
    let before = number(next_xid).await;
    wait_for_more(400).await;
    assert_eq!(number(next_xid).await, before);
    // A moved sequence makes both look, and find nothing.
    number("select nextval('event_box.events_sequence_seq')").await;
    let moved = number(next_xid).await;
    wait_for_more(400).await;
    assert_eq!(number(next_xid).await, moved);
    for running in running {
        running.stop().await.unwrap();
    }
    pool.close().await;
    database.close().await.unwrap();
}
