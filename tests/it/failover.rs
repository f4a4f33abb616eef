use std::{str::FromStr, sync::Arc, time::Duration};

use event_box::{BoxError, Consumer, Context, EmitError, EventBox, LogError, Outbox, PullBuilder, PullError, RunError};
use event_box_dev::{Server, ServerOptions};
use event_box_tests::{
    Counted, PATIENCE, Proxy, Running, Seen, make_synchronous, promote, start_standby, wait_until_seen,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::every_mode::{Acknowledged, EveryMode, assert_all_went_well, wait_until_all_is_seen};

/// A primary, its standby, and what their URL names: whichever of the two is to be used, as DNS or HAProxy have it.
struct Pair {
    primary: Server,
    standby: Server,
    proxy: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let options = || ServerOptions::new().setting("fsync", "off").setting("wal_receiver_status_interval", "1s");
        let start = move || {
            let primary = Server::start(&options()).expect("a PostgreSQL of the test's own");
            let standby = start_standby(&primary, &options());
            (primary, standby)
        };
        let (primary, standby) = tokio::task::spawn_blocking(start).await.unwrap();
        make_synchronous(&primary).await;
        let pair = Self { proxy: Proxy::start(primary.port()).await, primary, standby };
        let pool = pair.pool(&pair.primary, 1).await;
        event_box::migrate(&pool).await.unwrap();
        sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
        sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(&pool).await.unwrap();
        pool.close().await;
        pair
    }

    async fn pool(&self, server: &Server, connections: u32) -> PgPool {
        PgPoolOptions::new().max_connections(connections).connect(server.url()).await.unwrap()
    }

    /// The log by the URL that applications know.
    async fn log(&self) -> EventBox {
        let options = PgConnectOptions::from_str(self.primary.url()).unwrap().port(self.proxy.port());
        PgPoolOptions::new().max_connections(30).connect_with(options).await.unwrap().into()
    }
}

/// Emitters of every form and two processes with groups of every mode are under way when the primary dies.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_when_a_standby_takes_over() {
    let pair = Pair::start().await;
    let (acknowledged, mut emitters) = (Arc::new(Acknowledged::default()), JoinSet::new());
    let processes = [pair.log().await, pair.log().await];
    let groups = processes.each_ref().map(|log| EveryMode::start(log, 3));
    let enough = CancellationToken::new();
    for _ in 0..4 {
        let (acknowledged, log, enough) = (acknowledged.clone(), pair.log().await, enough.clone());
        emitters.spawn(async move { acknowledged.emit(&log, enough).await });
    }
    tokio::time::sleep(Duration::from_millis(fastrand::u64(2_000..4_000))).await;
    pair.primary.kill().unwrap();
    let before = acknowledged.count();
    promote(&pair.standby).await;
    pair.proxy.turn_to(pair.standby.port());
    let deadline = Instant::now() + PATIENCE;
    while acknowledged.count() <= before + 20 {
        assert!(Instant::now() < deadline, "{before}, then {}", acknowledged.count());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    enough.cancel();
    emitters.join_all().await;
    assert!(before > 20, "{before}");
    let pool = pair.pool(&pair.standby, 2).await;
    acknowledged.assert_logged(&pool).await;
    wait_until_all_is_seen(&pool).await;
    for groups in groups {
        groups.stop().await;
    }
    assert_all_went_well(&pool).await;
}

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

/// The URL turns to a standby that is not promoted: whoever runs is told, and so is whoever starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused_by_who_starts_and_by_who_is_running() {
    let pair = Pair::start().await;
    let log = pair.log().await;
    let consumer = |log: &EventBox| Consumer::builder(log, "g").on(note).build().unwrap();
    let running = Running::start(consumer(&log));
    let pull = PullBuilder::new(&log, "pull").event::<Counted>().open().await.unwrap();
    let event = |n| Counted { key: "k".to_owned(), n };
    Outbox::new().emit(log.pool(), &event(1)).await.unwrap();
    wait_until_seen(log.pool(), "g", 1).await;
    pull.wait().await.unwrap();
    let mut tx = log.pool().begin().await.unwrap();
    assert_eq!(pull.batch(&mut tx, 10).await.unwrap().count(), 1);
    tx.commit().await.unwrap();

    pair.proxy.turn_to(pair.standby.port());
    pair.proxy.cut();
    let waited = tokio::time::timeout(PATIENCE, pull.wait()).await.expect("it is told");
    assert!(matches!(waited, Err(PullError::Log(LogError::Standby))), "{waited:?}");
    let ended = running.ended().await;
    let Err(RunError::Log(error @ LogError::Standby)) = &ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("connect to the primary"), "{error}");
    let started = Running::start(consumer(&log)).ended().await;
    assert!(matches!(started, Err(RunError::Log(LogError::Standby))), "{started:?}");
    let opened = PullBuilder::new(&log, "pull").event::<Counted>().open().await;
    assert!(matches!(opened, Err(PullError::Log(LogError::Standby))), "{opened:?}");
    let emitted = Outbox::new().emit(log.pool(), &event(2)).await.unwrap_err();
    assert!(matches!(&emitted, EmitError::Database(error) if error.to_string().contains("read-only")), "{emitted:?}");

    pair.proxy.turn_to(pair.primary.port());
    let log = pair.log().await;
    let running = Running::start(consumer(&log));
    Outbox::new().emit(log.pool(), &event(2)).await.unwrap();
    wait_until_seen(log.pool(), "g", 2).await;
    running.stop().await.unwrap();
}
