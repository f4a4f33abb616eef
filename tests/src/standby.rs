use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    time::Duration,
};

use event_box_dev::{Server, ServerOptions};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::{PATIENCE, client::client};

/// Starts a physical standby of a server of our own, streaming from it. Blocks for some seconds.
///
/// # Panics
/// Where there is no `pg_basebackup`, with what to install.
pub fn start_standby(primary: &Server, options: &ServerOptions) -> Server {
    // A server as any other, which gives its directory for the copy.
    let standby = Server::start(options).expect("a PostgreSQL of the test's own");
    standby.stop().expect("it stops");
    let data = standby.data_dir().expect("it is ours");
    let owner = data.metadata().expect("a directory");
    fs::remove_dir_all(data).expect("it goes");
    let copied = client("pg_basebackup")
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &primary.port().to_string()])
        .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--write-recovery-conf", "-D"])
        .arg(data)
        .current_dir("/")
        .uid(owner.uid())
        .gid(owner.gid())
        .output()
        .expect("pg_basebackup runs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    standby.restart().expect("the standby starts");
    standby
}

/// From now on no commit of the primary is acknowledged before its standby has it.
pub async fn make_synchronous(primary: &Server) {
    let mut connection = PgConnection::connect(primary.url()).await.expect("a connection");
    for sql in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&mut connection).await.expect(sql);
    }
    let synchronous =
        "select exists (select from pg_stat_replication where sync_state = 'sync' and state = 'streaming')";
    wait_until(&mut connection, synchronous).await;
    connection.close().await.expect("it closes");
}

/// Makes the standby the primary.
pub async fn promote(standby: &Server) {
    let mut connection = PgConnection::connect(standby.url()).await.expect("a connection");
    let promoted: bool =
        sqlx::query_scalar("select pg_promote(true, 60)").fetch_one(&mut connection).await.expect("a promotion");
    assert!(promoted);
    connection.close().await.expect("it closes");
}

async fn wait_until(connection: &mut PgConnection, condition: &'static str) {
    let deadline = Instant::now() + PATIENCE;
    while !sqlx::query_scalar::<_, bool>(condition).fetch_one(&mut *connection).await.expect(condition) {
        assert!(Instant::now() < deadline, "{condition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
