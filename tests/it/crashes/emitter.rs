use std::time::Duration;

use event_box::BoxError;
use event_box_tests::{PATIENCE, emit_next};
use fastrand::Rng;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// An application that knows what it emitted: it tries again only what it knows to be not committed.
pub(super) struct Emitter {
    pool: PgPool,
    rng: Rng,
    /// Each with the number of the last event that is known to be committed. Nobody else emits under them.
    keys: Vec<(String, i64)>,
}

/// So many of them, until they are told to stop.
pub(super) fn start(
    emitters: usize,
    url: &str,
    rng: &mut Rng,
    stop: &CancellationToken,
) -> JoinSet<Vec<(String, i64)>> {
    let pool =
        PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(2)).connect_lazy(url).unwrap();
    let mut running = JoinSet::new();
    for emitter in 0..emitters {
        let keys = (0..5).map(|key| (format!("e{emitter}k{key}"), 0)).collect();
        let emitter = Emitter { pool: pool.clone(), rng: Rng::with_seed(rng.u64(..)), keys };
        running.spawn(emitter.run(stop.clone()));
    }
    running
}

/// Every emit of theirs was committed once.
pub(super) async fn assert_counted(pool: &PgPool, emitters: JoinSet<Vec<(String, i64)>>) {
    let mut known: Vec<_> = emitters.join_all().await.into_iter().flatten().collect();
    known.sort();
    let counted: Vec<(String, i64)> =
        sqlx::query_as("select key, n from counters order by key").fetch_all(pool).await.unwrap();
    assert_eq!(counted, known);
}

impl Emitter {
    async fn run(mut self, stop: CancellationToken) -> Vec<(String, i64)> {
        for key in 0..self.keys.len() {
            // So that there is a row to lock.
            let insert = "insert into counters values ($1, 0) on conflict do nothing";
            while sqlx::query(insert).bind(&self.keys[key].0).execute(&self.pool).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        while !stop.is_cancelled() {
            let at = self.rng.usize(0..self.keys.len());
            self.emit(at).await;
            tokio::time::sleep(Duration::from_millis(self.rng.u64(0..15))).await;
        }
        self.keys
    }

    /// The next event of a key, once.
    async fn emit(&mut self, at: usize) {
        let (key, known) = self.keys[at].clone();
        let deadline = Instant::now() + 2 * PATIENCE;
        while let Err(error) = self.try_to_emit(&key).await {
            match self.counter(&key, deadline).await {
                // It was committed after all.
                n if n == known + 1 => break,
                n if n == known => {}
                n => panic!("key {key} is at {n} after {known}"),
            }
            assert!(Instant::now() < deadline, "key {key}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.keys[at].1 = known + 1;
    }

    async fn try_to_emit(&self, key: &str) -> Result<(), BoxError> {
        let mut tx = self.pool.begin().await?;
        emit_next(&mut tx, key).await?;
        Ok(tx.commit().await?)
    }

    /// Waits for a transaction of ours that may still be open in the server.
    async fn counter(&self, key: &str, deadline: Instant) -> i64 {
        let read = "select n from counters where key = $1 for update";
        loop {
            match sqlx::query_scalar(read).bind(key).fetch_one(&self.pool).await {
                Ok(n) => return n,
                Err(error) => assert!(Instant::now() < deadline, "key {key}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
