//! What a process remembers of a server that has since lost its newest writes, and the log's sequence with them: it went back, and has come
//! to the remembered value again by the time that the process looks.

use std::{future::Future, process::Command, time::Duration};

use event_box::{BoxError, Consumer, Context, Outbox};
use event_box_dev::{Server, ServerOptions};
use event_box_tests::{
    Counted, Logged, PATIENCE, PgBouncer, Proxy, Running, Seen, promote, seen_by, start_standby, wait_until_seen,
};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{runtime::Runtime, time::Instant};

const POLL: &str = r#"s::text as "snapshot!""#;
const LOOK: &str = "due_in_seconds";
/// What comes too late for a poll is found by a look that is made every half minute.
const HALF_A_MINUTE_AND_MORE: Duration = Duration::from_secs(120);
/// Far less than half a minute has of them, ten a second.
const A_FEW_POLLS: usize = 200;

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

fn counted(key: &str, numbers: impl Iterator<Item = i64>) -> Vec<Counted> {
    numbers.map(|n| Counted { key: key.to_owned(), n }).collect()
}

/// Nothing reaches the disk but at a checkpoint, or where somebody asks for it.
fn forgetful() -> ServerOptions {
    let options = ServerOptions::new().setting("fsync", "off").setting("synchronous_commit", "off");
    let options = options.setting("autovacuum", "off").setting("checkpoint_timeout", "1h");
    options.setting("bgwriter_lru_maxpages", 0)
}

async fn prepare(server: &Server) -> PgPool {
    // It replaces dead connections silently, as sqlx's pools do.
    let pool = PgPoolOptions::new().max_connections(10).connect(server.url()).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    Outbox::new().emit_all(&pool, &counted("kept", 1..=3)).await.unwrap();
    pool
}

/// Events that will be lost are emitted and handled; then waits until the group has settled: it polls, sees nothing new, and looks no more.
/// Answers with the sequence's value that it remembers by then.
async fn settle(pool: &PgPool, logged: &Logged) -> i64 {
    Outbox::new().emit_all(pool, &counted("lost", 1..=60)).await.unwrap();
    wait_until_seen(pool, "g", 63).await;
    loop {
        let (polls, looks) = (logged.statements(POLL), logged.statements(LOOK));
        logged.wait_for_statements(POLL, polls + 5).await;
        if logged.statements(LOOK) == looks {
            break;
        }
    }
    let remembered = last_value(&mut pool.acquire().await.unwrap()).await;
    logged.wait_for_statements(POLL, logged.statements(POLL) + 1).await;
    // Between two polls.
    tokio::time::sleep(Duration::from_millis(30)).await;
    remembered
}

async fn last_value(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select last_value from event_box.events_sequence_seq").fetch_one(connection).await.unwrap()
}

/// On a thread of its own, while the test's runtime stands still, and with it whatever runs there.
fn aside<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| Runtime::new().unwrap().block_on(work)).join().unwrap())
}

/// In one statement, so that no value between the two is ever seen. Answers how many events that took.
async fn emit_until_the_sequence_is_at(url: &str, remembered: i64) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let missing = remembered - last_value(&mut connection).await;
    assert!(missing > 0, "the disaster lost nothing");
    Outbox::new().emit_all(&mut connection, &counted("later", 1..=missing)).await.unwrap();
    assert_eq!(last_value(&mut connection).await, remembered);
    connection.close().await.unwrap();
    missing
}

async fn assert_later_events_come(pool: &PgPool, events: i64) {
    let deadline = Instant::now() + HALF_A_MINUTE_AND_MORE;
    let seen = "select count(*) from seen where key = 'later'";
    while sqlx::query_scalar::<_, i64>(seen).fetch_one(pool).await.unwrap() < events {
        assert!(Instant::now() < deadline, "not within {HALF_A_MINUTE_AND_MORE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let expected = [("kept".to_owned(), vec![1, 2, 3]), ("later".to_owned(), (1..=events).collect())];
    assert_eq!(seen_by(pool, "g").await, expected);
}

fn signal(signal: &str, process: i32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// Keeps what is committed from now on from reaching the disk. Answers who would have written it there.
async fn stop_writing(pool: &PgPool) -> i32 {
    sqlx::raw_sql("checkpoint").execute(pool).await.unwrap();
    let writer = "select pid from pg_stat_activity where backend_type = 'walwriter'";
    let writer = sqlx::query_scalar(writer).fetch_one(pool).await.unwrap();
    signal("-STOP", writer);
    writer
}

fn crash(server: &Server, writer: i32) {
    server.kill().unwrap();
    signal("-KILL", writer);
    server.restart().unwrap();
}

/// The server's death shows: the connection that polls is lost.
#[tokio::test]
async fn a_sequence_that_went_back_by_a_crash_stalls_nothing() {
    let logged = Logged::here();
    let server = Server::start(&forgetful()).unwrap();
    let pool = prepare(&server).await;
    let running = Running::start(Consumer::builder(&pool, "g").on(note).build().unwrap());
    wait_until_seen(&pool, "g", 3).await;
    let writer = stop_writing(&pool).await;
    let remembered = settle(&pool, &logged).await;

    crash(&server, writer);
    let later = aside(emit_until_the_sequence_is_at(server.url(), remembered));
    let polls = logged.statements(POLL);
    assert_later_events_come(&pool, later).await;
    let polls = logged.statements(POLL) - polls;
    assert!(polls < A_FEW_POLLS, "{polls} polls were made until the look that is made anyway");
    running.stop().await.unwrap();
}

/// What a consumer and a puller behind PgBouncer are told of it is nothing at all.
#[tokio::test]
async fn a_sequence_that_went_back_by_a_crash_which_pgbouncer_hides_stalls_nothing_for_long() {
    let logged = Logged::here();
    let server = Server::start(&forgetful()).unwrap();
    let pool = prepare(&server).await;
    let pgbouncer = PgBouncer::start(server.url(), 5);
    let log = pgbouncer.log().await;
    let running = Running::start(Consumer::builder(&log, "g").on(note).build().unwrap());
    wait_until_seen(&pool, "g", 3).await;
    let writer = stop_writing(&pool).await;
    let remembered = settle(&pool, &logged).await;

    crash(&server, writer);
    let later = aside(emit_until_the_sequence_is_at(server.url(), remembered));
    assert_later_events_come(&pool, later).await;
    running.stop().await.unwrap();
}

/// A standby that had not been sent the newest writes is promoted, and PgBouncer turns to it.
#[tokio::test]
async fn a_sequence_that_went_back_by_a_promotion_which_pgbouncer_hides_stalls_nothing_for_long() {
    let logged = Logged::here();
    let options = || ServerOptions::new().setting("fsync", "off").setting("autovacuum", "off");
    let primary = Server::start(&options()).unwrap();
    let pool = prepare(&primary).await;
    let standby = start_standby(&primary, &options());
    // It goes on while the test stands still.
    let network = Runtime::new().unwrap();
    let proxy = network.spawn(Proxy::start(primary.port())).await.unwrap();
    let url = primary.url().replace(&primary.port().to_string(), &proxy.port().to_string());
    let pgbouncer = PgBouncer::start(&url, 5);
    let log = pgbouncer.log().await;
    let running = Running::start(Consumer::builder(&log, "g").on(note).build().unwrap());
    wait_until_seen(&pool, "g", 3).await;
    stop_streaming(&pool, &standby).await;
    let remembered = settle(&pool, &logged).await;

    primary.kill().unwrap();
    aside(promote(&standby));
    proxy.turn_to(standby.port());
    let later = aside(emit_until_the_sequence_is_at(standby.url(), remembered));
    let promoted = PgPool::connect(standby.url()).await.unwrap();
    assert_later_events_come(&promoted, later).await;
    running.stop().await.unwrap();
    network.shutdown_background();
}

/// The standby is sent what there is, and nothing after it.
async fn stop_streaming(primary: &PgPool, standby: &Server) {
    let written: String =
        sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(primary).await.unwrap();
    let mut connection = PgConnection::connect(standby.url()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let replayed = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    while !sqlx::query_scalar::<_, bool>(replayed).bind(&written).fetch_one(&mut connection).await.unwrap() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for sql in ["alter system set primary_conninfo = ''", "select pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
    let receivers = "select count(*) from pg_stat_wal_receiver";
    while sqlx::query_scalar::<_, i64>(receivers).fetch_one(&mut connection).await.unwrap() > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connection.close().await.unwrap();
}
