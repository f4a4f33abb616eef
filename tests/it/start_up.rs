use event_box::{BoxError, BuildError, Consumer, Context, EventBox, LogError, RunError};
use event_box_tests::{Counted, Running, TestLog};

async fn ignore(_: Counted, _: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(())
}

async fn run(log: &TestLog) -> RunError {
    Running::start(Consumer::builder(&log.pool, "g").on(ignore).build().unwrap()).ended().await.unwrap_err()
}

#[tokio::test]
async fn a_log_that_is_not_there_is_named_with_its_remedy() {
    let log = TestLog::empty().await;
    let RunError::Log(error) = run(&log).await else { panic!("another error") };
    assert!(matches!(error, LogError::NotMigrated { .. }), "{error:?}");
    assert!(error.to_string().contains("event_box::migrate(&pool)"), "{error}");
    log.close().await;
}

#[tokio::test]
async fn an_older_log_is_named() {
    let log = TestLog::new().await;
    log.sql("delete from event_box.migrations").await;
    let RunError::Log(error) = run(&log).await else { panic!("another error") };
    assert!(matches!(error, LogError::Outdated { applied: 0, .. }), "{error:?}");
    log.close().await;
}

#[tokio::test]
async fn an_altered_sequence_is_refused() {
    let log = TestLog::new().await;
    for alteration in ["cache 10", "increment 2", "cycle"] {
        let alter = sqlx::AssertSqlSafe(format!("alter sequence event_box.events_sequence_seq {alteration}"));
        sqlx::raw_sql(alter).execute(&log.pool).await.unwrap();
        let RunError::Log(error) = run(&log).await else { panic!("another error") };
        assert!(matches!(error, LogError::SequenceOptions { .. }), "{alteration}: {error:?}");
        log.sql("alter sequence event_box.events_sequence_seq cache 1 increment 1 no cycle").await;
    }
    log.close().await;
}

#[tokio::test]
async fn a_log_without_its_sequences_value_is_refused() {
    let log = TestLog::new().await;
    for n in 1..=3 {
        log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n }).await.unwrap();
    }
    log.sql("select setval('event_box.events_sequence_seq', 2)").await;
    let RunError::Log(error) = run(&log).await else { panic!("another error") };
    assert!(matches!(error, LogError::SequenceBehind { last_value: 2, highest: 3, .. }), "{error:?}");
    log.close().await;
}

/// As after a dump and restore into a cluster that is younger.
#[tokio::test]
async fn another_clusters_log_is_refused() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: 1 }).await.unwrap();
    log.sql("update event_box.events set xid = (pg_current_xact_id()::text::bigint + 1000000)::text::xid8").await;
    let RunError::Log(error) = run(&log).await else { panic!("another error") };
    assert!(matches!(error, LogError::Foreign { .. }), "{error:?}");
    log.close().await;
}

#[tokio::test]
async fn a_group_that_is_removed_while_it_runs_ends() {
    let log = TestLog::new().await;
    let running = Running::start(Consumer::builder(&log.pool, "g").on(ignore).build().unwrap());
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    assert!(EventBox::from(&log.pool).group("g").remove().await.unwrap());
    log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: 1 }).await.unwrap();
    let error = running.ended().await.unwrap_err();
    assert!(matches!(&error, RunError::GroupRemoved { group } if group == "g"), "{error:?}");
    log.close().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_when_it_is_built() {
    let log = TestLog::empty().await;
    let small = sqlx::postgres::PgPoolOptions::new().max_connections(5).connect_lazy(log.url()).unwrap();
    let error = Consumer::builder(&small, "g").on(ignore).build().unwrap_err();
    assert!(matches!(error, BuildError::PoolTooSmall { max_connections: 5, workers: 4, needed: 7 }), "{error:?}");
    assert!(error.to_string().contains("need 7"), "{error}");
    assert!(Consumer::builder(&small, "g").on(ignore).workers(2).build().is_ok());
    let error = Consumer::builder(&log.pool, "g").build().unwrap_err();
    assert!(matches!(error, BuildError::NoHandler { .. }), "{error:?}");
    for group in ["", "a\0b", &"g".repeat(256)] {
        let error = Consumer::builder(&log.pool, group).on(ignore).build().unwrap_err();
        assert!(matches!(error, BuildError::GroupName { .. }), "{error:?}");
    }
    let error = Consumer::builder(&log.pool, "g").on(ignore).workers(0).build().unwrap_err();
    assert!(matches!(error, BuildError::Zero { setting: "workers" }), "{error:?}");
    let error = Consumer::builder(&log.pool, "g").on(ignore).batch_size(0).build().unwrap_err();
    assert!(matches!(error, BuildError::Zero { setting: "batch_size" }), "{error:?}");
    log.close().await;
}
