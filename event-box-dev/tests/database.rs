//! Databases on a server of our own, and on one that was given.
#![cfg(unix)]

use event_box_dev::{Error, Server, ServerOptions, migrate_for_build};
use sqlx::{Connection, PgConnection};

fn start() -> Server {
    Server::start(&ServerOptions::new().setting("fsync", "off")).expect("a server")
}

async fn exists(server: &Server, database: &str) -> bool {
    let mut connection = PgConnection::connect(server.url()).await.expect("a connection");
    let count: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(database)
        .fetch_one(&mut connection)
        .await
        .expect("a count");
    count == 1
}

#[tokio::test]
async fn databases_are_apart_and_dropped() {
    let server = start();
    let (one, two) = tokio::join!(server.create_database("twin"), server.create_database("twin"));
    let (one, two) = (one.expect("a database"), two.expect("a database"));
    assert_ne!(one.name(), two.name());
    assert!(one.name().starts_with("twin_"));
    assert_eq!(one.url(), server.url_of(one.name()));

    let pool = one.pool(3).await.expect("a pool");
    sqlx::raw_sql("create table t ()").execute(&pool).await.expect("a table");
    let other = two.pool(3).await.expect("a pool");
    sqlx::raw_sql("select from t").execute(&other).await.expect_err("no table there");

    let (one_name, two_name) = (one.name().to_owned(), two.name().to_owned());
    one.close().await.expect("drops it under its pool");
    assert!(!exists(&server, &one_name).await);
    drop(two);
    assert!(!exists(&server, &two_name).await, "dropping the value drops the database");
}

#[tokio::test]
async fn a_given_server_is_used_and_left_alone() {
    let owner = start();
    let given = Server::at(owner.url()).expect("a URL");
    assert_eq!((given.url(), given.port(), given.data_dir()), (owner.url(), owner.port(), None));
    for refused in [given.kill(), given.stop(), given.restart()] {
        assert!(matches!(refused, Err(Error::Given(_))));
    }
    let database = given.create_database("given").await.expect("a database");
    assert!(exists(&owner, database.name()).await);
    let name = database.name().to_owned();
    database.close().await.expect("drops it");
    assert!(!exists(&owner, &name).await);
    drop(given);
    PgConnection::connect(owner.url()).await.expect("still runs");

    assert!(matches!(Server::at("mysql//x"), Err(Error::Url(_))));
}

#[tokio::test]
async fn migrations_are_recorded_where_sqlx_toml_says() {
    let server = start();
    let database = server.create_database("migrated").await.expect("a database");
    for _ in 0..2 {
        migrate_for_build(database.url()).await.expect("migrates");
    }
    let pool = database.pool(1).await.expect("a pool");
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'event_box'")
            .fetch_all(&pool)
            .await
            .expect("tables");
    assert!(tables.contains(&"migrations".to_owned()), "{tables:?}");
    assert!(tables.contains(&"events".to_owned()), "{tables:?}");
    let elsewhere: Option<String> = sqlx::query_scalar("select to_regclass('public._sqlx_migrations')::text")
        .fetch_one(&pool)
        .await
        .expect("a row");
    assert_eq!(elsewhere, None);
}
