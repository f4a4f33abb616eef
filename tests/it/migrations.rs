use std::path::Path;

use event_box_tests::TestLog;

#[tokio::test(flavor = "multi_thread")]
async fn eight_at_once_and_again_apply_once() {
    let log = TestLog::empty().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let pool = log.pool.clone();
            tokio::spawn(async move { event_box::migrate(&pool).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    event_box::migrate(&log.pool).await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.migrations where success").await, 1);
    log.close().await;
}

/// An application's own migration number 1 is another matter.
#[tokio::test]
async fn an_applications_migrations_do_not_collide() {
    let log = TestLog::empty().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("0001_orders.sql"), "create table orders (id bigint primary key)").unwrap();
    let own = sqlx::migrate::Migrator::new(directory.path()).await.unwrap();
    own.run(&log.pool).await.unwrap();
    event_box::migrate(&log.pool).await.unwrap();
    own.run(&log.pool).await.unwrap();
    event_box::migrate(&log.pool).await.unwrap();
    assert_eq!(log.number("select count(*) from _sqlx_migrations").await, 1);
    assert_eq!(log.number("select count(*) from event_box.migrations").await, 1);
    log.close().await;
}

/// `sqlx migrate run --config <event-box>/sqlx.toml` and `event_box::migrate` know of each other's work.
#[tokio::test(flavor = "multi_thread")]
async fn the_sqlx_command_applies_the_same_migrations() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../event-box");
    let sqlx = |url: &str| {
        let (config, source) = (core.join("sqlx.toml"), core.join("migrations"));
        let arguments = ["sqlx", "migrate", "run", "--config"].map(Into::into).into_iter().chain([
            config.into_os_string(),
            "--source".into(),
            source.into_os_string(),
            "--database-url".into(),
            url.into(),
        ]);
        <sqlx_cli::Opt as clap::Parser>::try_parse_from(arguments.collect::<Vec<std::ffi::OsString>>()).unwrap()
    };
    sqlx::any::install_default_drivers();
    let log = TestLog::empty().await;
    sqlx_cli::run(sqlx(log.url())).await.unwrap();
    event_box::migrate(&log.pool).await.unwrap();
    sqlx_cli::run(sqlx(log.url())).await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.migrations where success").await, 1);
    log.sql("select event_box.emit('t', '{}')").await;
    log.close().await;
}
