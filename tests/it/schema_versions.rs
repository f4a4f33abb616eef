use event_box::{BoxError, Consumer, Context, LogError, RunError};
use event_box_tests::{Counted, Logged};
use event_box_tests::{Running, Seen, TestLog, assert_each_once_in_order, wait_until_seen};

async fn note(event: Counted, cx: &mut Context<'_, &'static str>) -> Result<(), BoxError> {
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

fn start(log: &TestLog, member: &'static str) -> Running {
    Running::start(Consumer::builder(&log.pool, "g").state(member).on(note).build().unwrap())
}

/// What a later version's migration may do: add. Every table that there is gets a column, and one is new.
async fn migrate_further(log: &TestLog) {
    let tables = "select tablename::text from pg_tables where schemaname = 'event_box'";
    for table in sqlx::query_scalar::<_, String>(tables).fetch_all(&log.pool).await.unwrap() {
        // One table a transaction, or it would meet a worker's locks in another order.
        let sql = format!("alter table event_box.{table} add column of_tomorrow text");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&log.pool).await.unwrap();
    }
    log.sql(
        "create table event_box.of_tomorrow (id bigint primary key);
         insert into event_box.migrations (version, description, success, checksum, execution_time)
         select max(version) + 1, 'of tomorrow', true, '\\x00', 0 from event_box.migrations",
    )
    .await;
}

async fn log() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table counters (key text primary key, n bigint not null)").await;
    log
}

/// The schema is upgraded under consumers that run, and this code starts, emits, migrates and prunes on it too.
#[tokio::test]
async fn this_code_runs_on_a_newer_schema_and_beside_its_upgrade() {
    let logged = Logged::here();
    let log = log().await;
    let before = start(&log, "before");
    crate::processes::emit_concurrently(&log, 4, 50, 20).await;
    migrate_further(&log).await;
    crate::processes::emit_concurrently(&log, 4, 50, 20).await;
    let after = start(&log, "after");
    event_box::migrate(&log.pool).await.expect("a newer schema is left as it is");
    crate::processes::emit_concurrently(&log, 4, 50, 20).await;
    wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
    before.stop().await.unwrap();
    crate::processes::emit_concurrently(&log, 1, 20, 20).await;
    wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
    after.stop().await.unwrap();
    assert_each_once_in_order(&log.pool, "g").await;
    assert!(log.number("select count(*) from seen where member = 'after'").await > 0);
    event_box::prune(&log.pool, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert!(logged.alarms().is_empty(), "{:#?}", logged.alarms());
    log.close().await;
}

/// As where the newest migration failed half-way, or was never run: named with what to do, and cured by it.
#[tokio::test]
async fn an_older_schema_is_named_with_its_remedy_and_run_works_after_it() {
    let log = log().await;
    log.sql("update event_box.migrations set success = false").await;
    let error = start(&log, "m").ended().await.unwrap_err();
    let RunError::Log(error @ LogError::Outdated { applied: 0, needed, .. }) = &error else { panic!("{error:?}") };
    assert!(*needed >= 1);
    assert!(error.to_string().contains("run `event_box::migrate(&pool)`"), "{error}");
    log.sql("update event_box.migrations set success = true").await;
    crate::processes::emit_concurrently(&log, 1, 5, 5).await;
    let running = start(&log, "m");
    wait_until_seen(&log.pool, "g", log.number("select sum(n)::bigint from counters").await).await;
    running.stop().await.unwrap();
    log.close().await;
}
