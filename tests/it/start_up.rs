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
    assert!(matches!(error, BuildError::PoolTooSmall { max_connections: 5, workers: 4 }), "{error:?}");
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

/// The privileges that docs/operations.md names are enough to make a group, handle, park, retry and prune.
#[tokio::test]
async fn a_consuming_role_needs_no_more_than_is_documented() {
    let log = TestLog::new().await;
    let role = format!("consumer_{}", uuid::Uuid::now_v7().simple());
    let documented = include_str!("../../docs/operations.md");
    let (_, grants) = documented.split_once("-- A role that consumes.").unwrap();
    let grants = grants.split_once("```").unwrap().0.replace("to consumer;", &format!("to {role};"));
    let sql =
        format!("create role {role}; {grants} create table effects (n bigint); grant insert on effects to {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&log.pool).await.unwrap();
    let become_role = format!("set role {role}");
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(10)
        .after_connect(move |connection, _| {
            let become_role = sqlx::AssertSqlSafe(become_role.clone());
            Box::pin(async move { sqlx::raw_sql(become_role).execute(connection).await.map(drop) })
        })
        .connect(log.url())
        .await
        .unwrap();
    let consumer = Consumer::builder(&pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if event.n == 1 && cx.attempt() == 1 {
                return Err("once".into());
            }
            sqlx::query("insert into effects values ($1)").bind(event.n).execute(cx).await?;
            Ok(())
        })
        .backoff(event_box::Backoff::fixed(std::time::Duration::from_millis(10)))
        .from_now()
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let events: Vec<_> = (1..=5).map(|n| Counted { key: "k".to_owned(), n }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    log.wait_until("select count(*) from effects", 5).await;
    running.stop().await.unwrap();
    let pruned = event_box::prune(&pool, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(pruned.events, 5);
    pool.close().await;
    let undo = format!("drop owned by {role}; drop role {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(undo)).execute(&log.pool).await.unwrap();
    log.close().await;
}
