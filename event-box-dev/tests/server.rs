//! Servers of our own: settings, death, restart and removal.
#![cfg(unix)]

use std::path::Path;

use event_box_dev::{Error, Server, ServerOptions};
use sqlx::{Connection, PgConnection};

fn options() -> ServerOptions {
    ServerOptions::new().setting("fsync", "off")
}

async fn setting(url: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(&mut connection).await.expect("a setting")
}

#[tokio::test]
async fn starts_with_the_settings_given() {
    let server = Server::start(&options().setting("work_mem", "7MB").max_connections(11)).expect("a server");
    assert_eq!(setting(server.url(), "work_mem").await, "7MB");
    assert_eq!(setting(server.url(), "max_connections").await, "11");
    assert_eq!(setting(server.url(), "server_encoding").await, "UTF8");
    assert_eq!(setting(server.url(), "port").await, server.port().to_string());
    assert_eq!(Path::new(&setting(server.url(), "data_directory").await), server.data_dir().expect("ours"));
}

#[tokio::test]
async fn a_killed_server_keeps_its_data_and_port() {
    let server = Server::start(&options()).expect("a server");
    let database = server.create_database("kept").await.expect("a database");
    let pool = database.pool(2).await.expect("a pool");
    sqlx::raw_sql("create table t (a int); insert into t values (42)").execute(&pool).await.expect("a row");
    let port = server.port();

    for _ in 0..3 {
        server.kill().expect("kills");
        PgConnection::connect(database.url()).await.expect_err("is dead");
        server.restart().expect("restarts");
        assert_eq!(server.port(), port);
        let pool = database.pool(1).await.expect("a pool");
        let row: i32 = sqlx::query_scalar("select a from t").fetch_one(&pool).await.expect("the row");
        assert_eq!(row, 42);
    }
    assert!(server.log_tail().contains("ready to accept connections"), "{}", server.log_tail());
}

#[tokio::test]
async fn a_stopped_server_restarts_and_a_running_one_too() {
    let server = Server::start(&options()).expect("a server");
    server.stop().expect("stops");
    server.stop().expect("a second time changes nothing");
    PgConnection::connect(server.url()).await.expect_err("is stopped");
    server.restart().expect("restarts");
    server.restart().expect("restarts while it runs");
    PgConnection::connect(server.url()).await.expect("runs");
}

#[test]
fn dropping_removes_the_directory() {
    let server = Server::start(&options()).expect("a server");
    let dir = server.data_dir().expect("ours").parent().expect("its directory").to_owned();
    assert!(dir.is_dir());
    drop(server);
    assert!(!dir.exists());

    let server = Server::start(&options()).expect("a server");
    let dir = server.data_dir().expect("ours").parent().expect("its directory").to_owned();
    server.kill().expect("kills");
    drop(server);
    assert!(!dir.exists(), "also after a kill");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let error = Server::start(&options().setting("shared_buffers", "much")).expect_err("no such setting");
    assert!(matches!(error, Error::Start { .. }));
    assert!(error.to_string().contains("invalid value for parameter \"shared_buffers\": \"much\""), "{error}");
}
