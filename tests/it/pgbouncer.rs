use std::{sync::Arc, time::Duration};

use event_box::{BoxError, Cancellation, Consumer, Context, Failure, Outbox, ParkedFilter, PullBuilder, Selection};
use event_box_dev::{Database, Server, ServerOptions};
use event_box_tests::{
    Counted, Logged, PATIENCE, PgBouncer, Running, Seen, Tallied, assert_each_once_in_order, seen_by, wait_until_seen,
};
use sqlx::PgPool;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::every_mode::{Acknowledged, EveryMode, assert_all_went_well, emit_somehow, wait_until_all_is_seen};

/// A server, PgBouncer in front of it with fewer connections than it has clients, and the log behind it.
struct Stage {
    server: Server,
    database: Database,
    pgbouncer: PgBouncer,
    /// To the server itself, for what the test itself asks.
    direct: PgPool,
}

impl Stage {
    async fn set(connections: usize) -> Self {
        let start = || Server::start(&ServerOptions::new().setting("fsync", "off"));
        let server = tokio::task::spawn_blocking(start).await.unwrap().expect("a PostgreSQL of the test's own");
        let database = server.create_database("pgbouncer").await.unwrap();
        let pgbouncer = PgBouncer::start(database.url(), connections);
        let direct = database.pool(5).await.unwrap();
        sqlx::raw_sql(Seen::TABLE).execute(&direct).await.unwrap();
        sqlx::raw_sql("create table counters (key text primary key, n bigint not null)")
            .execute(&direct)
            .await
            .unwrap();
        event_box::migrate(pgbouncer.log().await).await.unwrap();
        Self { server, database, pgbouncer, direct }
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.direct).await.expect(sql)
    }

    async fn strike(self) {
        self.direct.close().await;
        self.database.close().await.unwrap();
        drop(self.server);
    }
}

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

async fn note_tallied(event: Tallied, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &Counted { key: event.key, n: event.n }, cx).await?)
}

#[tokio::test]
async fn every_form_of_emit_and_a_consumer_go_through() {
    let logged = Logged::here();
    // Fewer than there are emitters, so that hardly a transaction gets the session of the one before.
    let stage = Stage::set(5).await;
    let log = stage.pgbouncer.log().await;
    let consumer = Consumer::builder(&log, "g").on(note).on(note_tallied).build().unwrap();
    let running = Running::start(consumer);
    // A handle each, as processes have.
    let emitters = (0..8).map(|emitter| {
        let pgbouncer = &stage.pgbouncer;
        async move {
            let log = pgbouncer.log().await;
            let outboxes = [log.outbox(), Outbox::new().behind_pooler()];
            for round in 0..24 {
                let key = format!("k{}", (emitter + round) % 5);
                emit_somehow(log.pool(), &outboxes[round % 2], &key, (emitter + round) % 6).await.unwrap();
            }
            log.pool().close().await;
        }
    });
    futures_util::future::join_all(emitters).await;
    wait_until_seen(&stage.direct, "g", stage.number("select sum(n)::bigint from counters").await).await;
    running.stop().await.unwrap();
    assert_each_once_in_order(&stage.direct, "g").await;
    assert_eq!(logged.alarms().len(), 0, "{:#?}\n{}", logged.alarms(), stage.pgbouncer.said());
    log.pool().close().await;
    stage.strike().await;
}

#[tokio::test]
async fn delayed_events_go_through() {
    let logged = Logged::here();
    let stage = Stage::set(5).await;
    let log = stage.pgbouncer.log().await;
    let running = Running::start(Consumer::builder(&log, "g").on(note).build().unwrap());
    let outbox = log.outbox();
    let hour = Duration::from_secs(3_600);
    let event = |n| Counted { key: "k".to_owned(), n };
    let mut tx = log.pool().begin().await.unwrap();
    outbox.emit(&mut *tx, &event(1)).delay(Duration::from_millis(50)).await.unwrap();
    outbox.emit(&mut *tx, &event(2)).due_at(std::time::SystemTime::now() + Duration::from_millis(900)).await.unwrap();
    let late = outbox.emit(&mut *tx, &event(3)).delay(hour).await.unwrap();
    tx.commit().await.unwrap();
    wait_until_seen(&stage.direct, "g", 2).await;
    assert_eq!(log.delayed().await.unwrap().events, 1);
    let mut tx = log.pool().begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut *tx, late).await.unwrap(), Cancellation::Cancelled);
    tx.commit().await.unwrap();
    running.stop().await.unwrap();
    assert_eq!(seen_by(&stage.direct, "g").await, [("k".to_owned(), vec![1, 2])]);
    assert_eq!(logged.alarms().len(), 0, "{:#?}", logged.alarms());
    log.pool().close().await;
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_may_migrate_at_once() {
    let stage = Stage::set(5).await;
    sqlx::raw_sql("drop schema event_box cascade").execute(&stage.direct).await.unwrap();
    for _ in 0..2 {
        let migrations = (0..4).map(|_| async {
            let log = stage.pgbouncer.log().await;
            event_box::migrate(&log).await.unwrap();
            log.pool().close().await;
        });
        futures_util::future::join_all(migrations).await;
    }
    let left = "select count(*) from pg_locks where locktype = 'advisory'";
    assert_eq!(stage.number(left).await, 0, "no lock is left to a session of the pooler's");
    assert_eq!(stage.number("select count(*) from event_box.migrations where success").await, 1);
    stage.strike().await;
}

/// What operators do, each call from a handle of its own.
#[tokio::test]
async fn groups_are_operated_through_it() {
    let logged = Logged::here();
    let stage = Stage::set(3).await;
    let log = stage.pgbouncer.log().await;
    let outbox = log.outbox();
    for n in 1..=4 {
        emit_somehow(log.pool(), &outbox, &format!("k{n}"), 0).await.unwrap();
    }
    let reject = async |event: Counted, cx: &mut Context<'_>| -> Result<(), Failure> {
        match event.key.as_str() {
            "k4" => Err(Failure::Reject("never".into())),
            _ => Ok(Seen::note("m", &event, cx).await?),
        }
    };
    let running = Running::start(Consumer::builder(&log, "g").on(reject).build().unwrap());
    wait_until_seen(&stage.direct, "g", 3).await;
    let group = log.group("g").by("ann");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let dead = loop {
        let dead = group.dead_letters().await.unwrap();
        if let [dead] = dead.as_slice() {
            break dead.sequence;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(log.groups().await.unwrap().len(), 1);
    assert_eq!(group.health().await.unwrap().dead, 1);
    assert_eq!(group.parked(&ParkedFilter::default()).await.unwrap().len(), 1);
    group.pause().await.unwrap();
    group.resume().await.unwrap();
    assert_eq!(group.edit(dead, r#"{"key": "k5", "n": 1}"#).await.unwrap().events, 1);
    wait_until_seen(&stage.direct, "g", 4).await;
    group.replay_all().await.unwrap();
    wait_until_seen(&stage.direct, "g", 7).await;
    group.replay_since(std::time::UNIX_EPOCH).await.unwrap();
    wait_until_seen(&stage.direct, "g", 10).await;
    group.skip(Selection::All).await.unwrap();
    group.forward_and_clear_parked().await.unwrap();
    assert!(group.add_topic("test.tallied").await.unwrap());
    group.remove_topic("test.tallied").await.unwrap();
    let _ = log.event(dead).by("ann").erase().await.unwrap();
    event_box::adopt(&log).await.unwrap();
    event_box::prune(&log, Duration::from_secs(3_600)).await.unwrap();
    assert!(log.interventions(100).await.unwrap().len() >= 8);
    running.stop().await.unwrap();
    assert!(group.remove().await.unwrap());
    assert_eq!(
        logged.alarms().iter().filter(|line| !line.message.contains("dead letter")).count(),
        0,
        "{:#?}",
        logged.alarms()
    );
    log.pool().close().await;
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_through() {
    let stage = Stage::set(3).await;
    let log = stage.pgbouncer.log().await;
    let outbox = log.outbox();
    let pull = PullBuilder::new(&log, "pull").event::<Counted>().open().await.unwrap();
    for round in 0..20 {
        emit_somehow(log.pool(), &outbox, &format!("k{}", round % 3), [0, 3, 5][round % 3]).await.unwrap();
    }
    let all = stage.number("select sum(n)::bigint from counters").await;
    let mut pulled = 0;
    while pulled < all {
        tokio::time::timeout(PATIENCE, pull.wait()).await.expect("there is more").unwrap();
        let mut tx = log.pool().begin().await.unwrap();
        let batch = pull.batch(&mut tx, 7).await.unwrap();
        for event in batch {
            let Counted { key, n } = event.decode().unwrap();
            let insert = "insert into seen (member, grp, key, n) values ('m', 'pull', $1, $2)";
            sqlx::query(insert).bind(key).bind(n).persistent(false).execute(&mut *tx).await.unwrap();
            pulled += 1;
        }
        tx.commit().await.unwrap();
    }
    assert_each_once_in_order(&stage.direct, "pull").await;
    log.pool().close().await;
    stage.strike().await;
}

/// Two processes with groups of every mode, four emitters, and a pooler that is killed now and then.
#[tokio::test(flavor = "multi_thread")]
async fn every_mode_delivers_each_event_once_in_order_while_pgbouncer_is_killed() {
    let stage = Stage::set(12).await;
    let processes = [stage.pgbouncer.log().await, stage.pgbouncer.log().await];
    // A pooler that is killed looks like the death of every process that had a batch in hand.
    let groups = processes.each_ref().map(|log| EveryMode::start(log, 1_000));
    let (acknowledged, mut emitters) = (Arc::new(Acknowledged::default()), JoinSet::new());
    let enough = CancellationToken::new();
    for _ in 0..4 {
        let (acknowledged, log, enough) = (acknowledged.clone(), stage.pgbouncer.log().await, enough.clone());
        emitters.spawn(async move { acknowledged.emit(&log, enough).await });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1_500..2_500))).await;
        stage.pgbouncer.restart();
    }
    let deadline = Instant::now() + PATIENCE;
    while acknowledged.count() <= 50 {
        assert!(Instant::now() < deadline, "{}", acknowledged.count());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    enough.cancel();
    emitters.join_all().await;
    acknowledged.assert_logged(&stage.direct).await;
    wait_until_all_is_seen(&stage.direct).await;
    for groups in groups {
        groups.stop().await;
    }
    assert_all_went_well(&stage.direct).await;
    for log in processes {
        log.pool().close().await;
    }
    stage.strike().await;
}
