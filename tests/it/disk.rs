use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Context};
use event_box_dev::{Server, ServerOptions};
use event_box_tests::{Counted, Logged, Running, Seen, TestLog, assert_each_once_in_order, emit_next, wait_until_seen};
use sqlx::{AssertSqlSafe, PgPool};

const TROUBLE: &str = "events cannot be delivered, trying on";
const OVER: &str = "events are delivered again";
const CLAIM: &str = "for update skip locked";

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

fn start(pool: &PgPool) -> Running {
    Running::start(Consumer::builder(pool, "g").on(note).build().unwrap())
}

async fn prepare(pool: &PgPool) {
    sqlx::raw_sql(Seen::TABLE).execute(pool).await.unwrap();
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(pool).await.unwrap();
}

/// Every write to the table is refused as on a full disk.
async fn fill(log: &TestLog, table: &str) {
    let sql = format!(
        "create or replace function full_disk() returns trigger language plpgsql as $$ begin
             raise exception 'could not extend file: No space left on device' using errcode = 'disk_full';
         end $$;
         create trigger full_disk before insert or update on {table} for each row execute function full_disk()"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&log.pool).await.unwrap();
}

async fn assert_waits_without_blame(table: &'static str, trouble: &str) {
    let logged = Logged::here();
    let log = TestLog::new().await;
    prepare(&log.pool).await;
    let running = start(&log.pool);
    let mut connection = log.pool.acquire().await.unwrap();
    emit_next(&mut connection, "k").await.unwrap();
    wait_until_seen(&log.pool, "g", 1).await;
    fill(&log, table).await;
    for _ in 0..3 {
        emit_next(&mut connection, "k").await.unwrap();
    }
    logged.wait_for(trouble, 1).await;
    let (claims, began) = (logged.statements(CLAIM), Instant::now());
    logged.wait_for_statements(CLAIM, claims + 5).await;
    assert!(began.elapsed() >= Duration::from_millis(1_300), "5 claims in {:?}", began.elapsed());
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0, "no event is blamed");
    sqlx::raw_sql(AssertSqlSafe(format!("drop trigger full_disk on {table}"))).execute(&log.pool).await.unwrap();
    wait_until_seen(&log.pool, "g", 4).await;
    logged.wait_for(OVER, 1).await;
    running.stop().await.unwrap();
    assert_eq!((logged.times(trouble), logged.times(OVER)), (1, 1), "{:#?}", logged.said(""));
    assert_each_once_in_order(&log.pool, "g").await;
    drop(connection);
    log.close().await;
}

#[tokio::test]
async fn a_full_disk_under_the_cursors_is_waited_for() {
    assert_waits_without_blame("event_box.cursors", TROUBLE).await;
}

/// A handler's statement meets it: that says nothing against the event.
#[tokio::test]
async fn a_full_disk_under_a_handlers_table_is_waited_for() {
    assert_waits_without_blame("seen", "what the handler depends on is down").await;
}

/// A file system of 8 MB, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where we may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs"]).arg(at).output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

/// The log's and the handler's tables on a real disk that is full.
#[tokio::test]
async fn a_disk_that_is_really_full_loses_and_blames_nothing() {
    let logged = Logged::here();
    let server = Server::start(&ServerOptions::new().setting("fsync", "off").setting("autovacuum", "off")).unwrap();
    let at = server.data_dir().unwrap().parent().unwrap().join("small");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("nothing can be mounted here: not tested");
        return;
    };
    let tablespace = at.join("tablespace");
    std::fs::create_dir(&tablespace).unwrap();
    let of_data = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.data_dir().unwrap()).unwrap());
    std::os::unix::fs::chown(&tablespace, Some(of_data), None).unwrap();
    let database = server.create_database("disk").await.unwrap();
    let pool = database.pool(20).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    prepare(&pool).await;
    let sql = format!(
        "create tablespace small location '{}';
         alter table seen set tablespace small; alter table event_box.cursors set tablespace small;
         alter table event_box.parked set tablespace small; create table filler (t text) tablespace small;
         alter table filler alter column t set storage plain",
        tablespace.display()
    );
    for statement in sql.split(';') {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&pool).await.unwrap();
    }
    let running = start(&pool);
    let mut connection = pool.acquire().await.unwrap();
    emit_next(&mut connection, "k0").await.unwrap();
    wait_until_seen(&pool, "g", 1).await;
    let full = async || {
        let filled = sqlx::raw_sql("insert into filler select repeat('x', 7000) from generate_series(1, 10)")
            .execute(&pool)
            .await;
        filled
            .is_err_and(|error| error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("53100")))
    };
    while !full().await {}
    // More than fits into the pages that there are.
    let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
    for i in 0..2_000 {
        emit_next(&mut tx, &format!("k{}", i % 200)).await.unwrap();
    }
    tx.commit().await.unwrap();
    logged.wait_for("", 3).await;
    let alarms = logged.alarms();
    assert!(alarms[0].fields["error"].contains("No space left on device"), "{alarms:#?}");
    sqlx::raw_sql("drop table filler").execute(&pool).await.unwrap();
    wait_until_seen(&pool, "g", 2_001).await;
    logged.wait_for(OVER, 1).await;
    running.stop().await.unwrap();
    assert_each_once_in_order(&pool, "g").await;
    assert_eq!((logged.alarms().len(), logged.times("event failed")), (1, 0), "{:#?}", logged.said(""));
    drop(connection);
    pool.close().await;
    database.close().await.unwrap();
    server.stop().unwrap();
}
