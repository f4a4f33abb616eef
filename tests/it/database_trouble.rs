use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Context, LogError, RunError};
use event_box_dev::{Database, Server, ServerOptions};
use event_box_tests::{
    Counted, Logged, PATIENCE, Running, Seen, TestLog, assert_each_once_in_order, emit_next, seen_by, wait_until_seen,
};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

const TROUBLE: &str = "events cannot be delivered, trying on";
const OVER: &str = "events are delivered again";
const UNPOLLED: &str = "the event log cannot be polled, trying on";
const POLLED: &str = "the event log is polled again";
const CLAIM: &str = "for update skip locked";

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

/// A log with what the tests of this module write to.
async fn log() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    log
}

/// The consumer's own, so that what befalls it spares the test.
fn consumers_pool(url: &str) -> PgPool {
    // A connection that is not had in this time is trouble, and said: no busy machine takes so long to make one.
    impatient_pool(url, Duration::from_secs(10))
}

fn impatient_pool(url: &str, patience: Duration) -> PgPool {
    let options = PgConnectOptions::from_str(url).unwrap().application_name("consumer");
    PgPoolOptions::new().max_connections(7).acquire_timeout(patience).connect_lazy_with(options)
}

fn start(pool: &PgPool) -> Running {
    Running::start(Consumer::builder(pool, "g").on(note).build().unwrap())
}

async fn emit(log: &TestLog, keys: u64) {
    for key in 0..keys {
        emit_next(&mut log.pool.acquire().await.unwrap(), &format!("k{key}")).await.unwrap();
    }
}

/// So many more claims take at least this long: the pauses grow from 100 ms on.
async fn assert_backs_off(logged: &Logged) {
    let (claims, began) = (logged.statements(CLAIM), Instant::now());
    logged.wait_for_statements(CLAIM, claims + 6).await;
    assert!(began.elapsed() >= Duration::from_millis(2_500), "6 claims in {:?}", began.elapsed());
}

/// One warning when it began, one line when it was over.
fn assert_said_once(logged: &Logged, began: &str, over: &str) {
    assert_eq!((logged.times(began), logged.times(over)), (1, 1), "{:#?}", logged.said(""));
}

async fn database(server: &Server) -> (Database, PgPool) {
    let database = server.create_database("outage").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(&pool).await.unwrap();
    (database, pool)
}

/// Work in many partitions, so that every worker meets the trouble.
#[tokio::test]
async fn a_restart_is_said_once_and_passes_soon() {
    let logged = Logged::here();
    let server = Server::start(&ServerOptions::new().setting("fsync", "off")).unwrap();
    let (database, pool) = database(&server).await;
    let consumers = consumers_pool(database.url());
    let running = start(&consumers);
    let mut connection = pool.acquire().await.unwrap();
    for key in 0..40 {
        emit_next(&mut connection, &format!("k{key}")).await.unwrap();
    }
    wait_until_seen(&pool, "g", 40).await;
    let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
    for key in 0..40 {
        emit_next(&mut tx, &format!("k{key}")).await.unwrap();
    }
    tx.commit().await.unwrap();
    server.stop().unwrap();
    logged.wait_for(UNPOLLED, 1).await;
    logged.wait_for(TROUBLE, 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.restart().unwrap();
    let back = Instant::now();
    let fresh = database.pool(2).await.unwrap();
    wait_until_seen(&fresh, "g", 80).await;
    logged.wait_for(OVER, 1).await;
    println!("delivered {:?} after the server was back", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(25), "a look comes after half a minute anyway: {:?}", back.elapsed());
    logged.wait_for(POLLED, 1).await;
    running.stop().await.unwrap();
    assert_said_once(&logged, TROUBLE, OVER);
    assert_said_once(&logged, UNPOLLED, POLLED);
    assert_each_once_in_order(&fresh, "g").await;
    drop(connection);
    for pool in [pool, consumers, fresh] {
        pool.close().await;
    }
    database.close().await.unwrap();
}

#[tokio::test]
async fn backends_that_are_terminated_again_and_again_lose_and_double_nothing() {
    let logged = Logged::here();
    let log = log().await;
    let consumers = consumers_pool(log.url());
    let running = start(&consumers);
    for _ in 0..10 {
        crate::processes::emit_concurrently(&log, 4, 10, 20).await;
        let seen = log.number("select count(*) from seen").await;
        log.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'consumer' and datname = current_database()")
            .await;
        // In the middle of what comes next.
        crate::processes::emit_concurrently(&log, 4, 5, 20).await;
        wait_until_seen(&log.pool, "g", seen + 1).await;
        logged.wait_for(OVER, logged.times(TROUBLE)).await;
    }
    let emitted = log.number("select sum(n)::bigint from counters").await;
    wait_until_seen(&log.pool, "g", emitted).await;
    running.stop().await.unwrap();
    assert_each_once_in_order(&log.pool, "g").await;
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0, "no event is blamed");
    // A cut may be noticed twice: another connection that it took was idle, and is used when the first trouble is over.
    assert!(logged.times(TROUBLE) >= 1 && logged.times(TROUBLE) <= 20, "{:#?}", logged.alarms());
    log.close().await;
}

#[tokio::test]
async fn a_pool_that_the_application_holds_is_waited_for() {
    let logged = Logged::here();
    let log = log().await;
    let consumers = impatient_pool(log.url(), Duration::from_millis(500));
    let consumer = Consumer::builder(&consumers, "g").on(note).retention(None).dead_letter_retention(None);
    let running = Running::start(consumer.build().unwrap());
    emit(&log, 1).await;
    wait_until_seen(&log.pool, "g", 1).await;
    // All but what the poll holds, as they come free.
    let mut held = Vec::new();
    while let Ok(connection) = consumers.acquire().await {
        held.push(connection);
    }
    emit(&log, 1).await;
    logged.wait_for(TROUBLE, 1).await;
    let error = logged.said(TROUBLE)[0].fields["error"].clone();
    assert!(error.contains("pool timed out"), "{error}");
    // The listener, which gives its connection up for a moment when it is told to reconnect, may be among the losers: the poll is not.
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(held);
    wait_until_seen(&log.pool, "g", 2).await;
    logged.wait_for(OVER, 1).await;
    running.stop().await.unwrap();
    assert_said_once(&logged, TROUBLE, OVER);
    assert_eq!(logged.alarms().len(), 1, "{:#?}", logged.alarms());
    assert_each_once_in_order(&log.pool, "g").await;
    log.close().await;
}

/// Someone locks what a batch writes to; the server's time-out ends the wait, the event is not blamed.
#[tokio::test]
async fn a_statement_that_times_out_is_tried_again_with_backoff() {
    let logged = Logged::here();
    let log = log().await;
    let consumers = consumers_pool(log.url());
    let running = start(&consumers);
    emit(&log, 1).await;
    wait_until_seen(&log.pool, "g", 1).await;
    // As a time-out would end the update that advances the cursor.
    log.sql(
        "create function slow() returns trigger language plpgsql as $$ begin
             perform set_config('statement_timeout', '1ms', true); raise query_canceled using message = 'canceling statement due to statement timeout';
         end $$;
         create trigger slow before update on event_box.cursors for each row execute function slow()",
    )
    .await;
    emit(&log, 1).await;
    logged.wait_for(TROUBLE, 1).await;
    assert_backs_off(&logged).await;
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.sql("drop trigger slow on event_box.cursors").await;
    wait_until_seen(&log.pool, "g", 2).await;
    logged.wait_for(OVER, 1).await;
    running.stop().await.unwrap();
    assert_said_once(&logged, TROUBLE, OVER);
    assert_each_once_in_order(&log.pool, "g").await;
    log.close().await;
}

/// What a role or a database sets for its sessions does not reach into a batch.
#[tokio::test]
async fn a_databases_own_time_outs_do_not_end_a_batch() {
    let logged = Logged::here();
    let log = log().await;
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&log.pool).await.unwrap();
    for setting in
        ["statement_timeout = '2s'", "idle_in_transaction_session_timeout = '1s'", "idle_session_timeout = '4s'"]
    {
        sqlx::raw_sql(AssertSqlSafe(format!("alter database {name} set {setting}"))).execute(&log.pool).await.unwrap();
    }
    let consumers = consumers_pool(log.url());
    let consumer = Consumer::builder(&consumers, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            sqlx::query("select pg_sleep(2.5)").execute(&mut *cx).await?;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            Ok(Seen::note("m", &event, cx).await?)
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    emit(&log, 2).await;
    wait_until_seen(&log.pool, "g", 2).await;
    // Idle sessions are closed by the server meanwhile: the listener's, the poll's.
    tokio::time::sleep(Duration::from_secs(9)).await;
    emit(&log, 2).await;
    wait_until_seen(&log.pool, "g", 4).await;
    running.stop().await.unwrap();
    assert!(logged.alarms().is_empty(), "{:#?}", logged.alarms());
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_each_once_in_order(&log.pool, "g").await;
    log.close().await;
}

/// As on a server that was fenced off, or whose disk is nearly full: SQLSTATE 25006.
#[tokio::test]
async fn a_read_only_server_is_waited_for() {
    let logged = Logged::here();
    let log = log().await;
    let consumers = consumers_pool(log.url());
    let running = start(&consumers);
    emit(&log, 1).await;
    wait_until_seen(&log.pool, "g", 1).await;
    read_only(&log, true).await;
    log.sql("set default_transaction_read_only = off").await;
    let mut writer = log.pool.acquire().await.unwrap();
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut *writer).await.unwrap();
    emit_next(&mut writer, "k0").await.unwrap();
    logged.wait_for(TROUBLE, 1).await;
    let error = logged.said(TROUBLE)[0].fields["error"].clone();
    // Said once: which of the two comes first is chance.
    let either = ["read-only transaction", "terminating connection"];
    assert!(either.iter().any(|part| error.contains(part)), "{error}");
    assert_backs_off(&logged).await;
    read_only(&log, false).await;
    wait_until_seen(&log.pool, "g", 2).await;
    logged.wait_for(OVER, logged.times(TROUBLE)).await;
    running.stop().await.unwrap();
    // Connections were ended twice, which may have been trouble of its own, and over.
    let read_only = logged.said(TROUBLE).iter().filter(|line| line.fields["error"].contains("read-only")).count();
    assert!(read_only <= 1 && logged.times(TROUBLE) <= 3, "{:#?}", logged.said(TROUBLE));
    assert_eq!(logged.times(OVER), logged.times(TROUBLE));
    drop(writer);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_each_once_in_order(&log.pool, "g").await;
    log.close().await;
}

/// A group that is new cannot be made there: it is waited for, as a server that is not up yet.
#[tokio::test]
async fn a_new_group_waits_for_a_server_that_is_read_only() {
    let logged = Logged::here();
    let log = log().await;
    emit(&log, 1).await;
    read_only(&log, true).await;
    let consumers = consumers_pool(log.url());
    let running = start(&consumers);
    logged.wait_for("the database is not there yet", 1).await;
    read_only(&log, false).await;
    wait_until_seen(&log.pool, "g", 1).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// Every session of the database but those of the test that begin after this.
async fn read_only(log: &TestLog, on: bool) {
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&log.pool).await.unwrap();
    let setting = format!(
        "begin read write; alter database {name} set default_transaction_read_only = {on}; commit;
         select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'consumer' and datname = current_database()"
    );
    sqlx::raw_sql(AssertSqlSafe(setting)).execute(&log.pool).await.unwrap();
}

/// What was the primary comes back as a standby, under a consumer that ran.
#[tokio::test]
async fn a_server_that_became_a_standby_ends_the_consumer() {
    let logged = Logged::here();
    let server = Server::start(&ServerOptions::new().setting("fsync", "off")).unwrap();
    let (database, pool) = database(&server).await;
    let consumers = consumers_pool(database.url());
    let running = start(&consumers);
    emit_next(&mut pool.acquire().await.unwrap(), "k").await.unwrap();
    wait_until_seen(&pool, "g", 1).await;
    pool.close().await;
    server.stop().unwrap();
    logged.wait_for(UNPOLLED, 1).await;
    let signal = server.data_dir().unwrap().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    server.restart().unwrap();
    let error = running.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Log(LogError::Standby)), "{error:?}");
    // Promoted: the same pool serves the next `run`.
    std::fs::remove_file(signal).unwrap();
    server.stop().unwrap();
    server.restart().unwrap();
    let pool = database.pool(5).await.unwrap();
    emit_next(&mut pool.acquire().await.unwrap(), "k").await.unwrap();
    let running = start(&consumers);
    wait_until_seen(&pool, "g", 2).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&pool, "g").await, [("k".to_owned(), vec![1, 2])]);
    for pool in [pool, consumers] {
        tokio::time::timeout(PATIENCE, pool.close()).await.unwrap();
    }
    database.close().await.unwrap();
}
