//! A seeded, randomised history against a real PostgreSQL: what emitters committed is what every group got. `EVENT_BOX_SEED` repeats what
//! is drawn, though not how the server interleaves it.

mod emitters;
mod groups;

use std::{collections::BTreeMap, time::Duration};

use event_box::EventBox;
use event_box_tests::{Seen, TestLog, assert_each_once_in_order, seen_by};
use fastrand::Rng;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::groups::{Chaos, Kind, Whims};

/// How long emitters are at work, half of it busy and half of it calm.
const TIME: Duration = Duration::from_secs(12);

struct Model {
    log: TestLog,
    /// For the consumers.
    pool: PgPool,
    seed: u64,
}

impl Model {
    async fn new() -> Self {
        let seed = std::env::var("EVENT_BOX_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("EVENT_BOX_SEED={seed}");
        let log = TestLog::new().await;
        sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
        log.sql("create table counters (key text primary key, n bigint not null)").await;
        let options = log.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new().max_connections(45).connect_with(options).await.unwrap();
        Self { log, pool, seed }
    }

    fn rng(&self, of: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_add(of.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// What was committed and not seen by a group.
    async fn missing(&self, group: &str) -> i64 {
        let missing = "select coalesce(sum(n), 0)::bigint - (select count(distinct (key, n)) from seen where grp = $1) from counters";
        sqlx::query_scalar(missing).bind(group).fetch_one(&self.log.pool).await.unwrap()
    }

    async fn wait_until_all_is_seen(&self, group: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let missing = self.missing(group).await;
            if missing == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "seed {}: group {group} has not seen {missing} events", self.seed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_gets_what_was_committed_once_and_in_order() {
    let model = Model::new().await;
    let whims: &'static Whims = Box::leak(Box::new(Whims::new(model.pool.clone())));
    let stop = CancellationToken::new();
    let mut work = JoinSet::new();
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        let chaos = Chaos { kind, pool: model.pool.clone(), whims, rng: model.rng(100 + i as u64) };
        work.spawn(chaos.run(stop.clone()));
    }
    work.spawn(groups::pull(model.pool.clone(), model.rng(200), stop.clone()));
    work.spawn(prune(model.pool.clone(), stop.clone()));
    work.spawn(replay(model.pool.clone(), model.rng(300), stop.clone()));

    let emitting = CancellationToken::new();
    let mut emitters = JoinSet::new();
    for i in 0..8 {
        // Two of them are slow, and alone with that in the calm half: only they keep ids beyond every snapshot's end.
        let slow = i < 2;
        let emitter = emitters::Emitter { pool: model.log.pool.clone(), rng: model.rng(i), slow };
        emitters.spawn(emitter.run(emitting.clone(), if slow { TIME } else { TIME / 2 }));
    }
    emitters.join_all().await;
    let exact: Vec<_> = Kind::ALL.into_iter().filter(|kind| kind.is_exact()).map(Kind::group).chain(["pull"]).collect();
    for group in Kind::ALL.into_iter().map(Kind::group).chain(["pull"]) {
        model.wait_until_all_is_seen(group).await;
    }
    stop.cancel();
    while let Some(ended) = work.join_next().await {
        ended.expect("nobody panics");
    }
    for group in exact {
        assert_each_once_in_order(&model.log.pool, group).await;
    }
    let committed: BTreeMap<String, i64> =
        sqlx::query_as("select key, n from counters").fetch_all(&model.log.pool).await.unwrap().into_iter().collect();
    // At least once, and again only where a claim was cut off or the group was replayed: never past one that was not seen before.
    for group in Kind::ALL.into_iter().filter(|kind| !kind.is_exact()).map(Kind::group) {
        for (key, numbers) in seen_by(&model.log.pool, group).await {
            let mut most = 0;
            for n in numbers {
                assert!(n <= most + 1, "seed {}: group {group}, key {key}: {n} after {most}", model.seed);
                most = most.max(n);
            }
            assert_eq!(most, committed[&key], "seed {}: group {group}, key {key}", model.seed);
        }
    }
    println!(
        "{} events, {} handled",
        committed.values().sum::<i64>(),
        model.log.number("select count(*) from seen").await
    );
    assert_eq!(model.log.number("select count(*) from event_box.parked where dead_at is not null").await, 0);
    assert_eq!(model.log.number("select count(*) from event_box.starts").await, 0);
    model.pool.close().await;
    model.log.close().await;
}

/// Whatever may go, goes.
async fn prune(pool: PgPool, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(150))).await.is_some() {
        event_box::prune(&pool, Duration::ZERO).await.expect("prune");
    }
}

/// One group goes back again and again, into the middle of passes too.
async fn replay(pool: PgPool, mut rng: Rng, stop: CancellationToken) {
    let group = EventBox::from(&pool).group(Kind::Replayed.group());
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(rng.u64(200..900)))).await.is_some() {
        let last: Option<i64> = sqlx::query_scalar("select max(sequence) from event_box.events")
            .fetch_one(&pool)
            .await
            .expect("the last sequence");
        let from = last.unwrap_or(0) - rng.i64(0..400);
        // It does not exist yet, at first.
        let _ = group.replay_from(from.max(1)).await;
    }
}
