use std::time::Duration;

use event_box::{BoxError, Outbox};
use event_box_tests::{Counted, Tallied};
use fastrand::Rng;
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An application that serialises its transactions per key: by a lock on the key's counter, taken before the emit.
pub(super) struct Emitter {
    pub(super) pool: PgPool,
    pub(super) rng: Rng,
    pub(super) slow: bool,
}

impl Emitter {
    pub(super) async fn run(mut self, stop: CancellationToken, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !stop.is_cancelled() {
            self.transaction().await.expect("a transaction");
            if !self.slow {
                tokio::time::sleep(Duration::from_millis(self.rng.u64(0..12))).await;
            }
        }
    }

    async fn transaction(&mut self) -> Result<(), BoxError> {
        let mut tx = self.pool.begin().await?;
        if self.rng.u8(..) < 40 {
            // It has an id long before it emits.
            sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await?;
            self.pause().await;
        }
        let (count, many) = (self.rng.usize(1..4), self.rng.u8(..) < 3);
        let mut keys: Vec<_> = (0..count).map(|_| format!("k{:02}", self.rng.u8(0..24))).collect();
        // Ascending, so that emitters do not deadlock.
        keys.sort();
        keys.dedup();
        for key in keys {
            if self.rng.u8(..) < 30 {
                sqlx::query("savepoint mine").execute(&mut *tx).await?;
                self.emit(&mut tx, &key, 2).await?;
                sqlx::query("rollback to savepoint mine").execute(&mut *tx).await?;
            }
            self.emit(&mut tx, &key, if many { 400 } else { 1 }).await?;
            if self.slow || self.rng.u8(..) < 25 {
                self.pause().await;
            }
        }
        if self.rng.u8(..) < 40 {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        let most = if self.slow { 250 } else { 40 };
        tokio::time::sleep(Duration::from_millis(self.rng.u64(1..most))).await;
    }

    /// The next so many of a key, by any of the ways to write them.
    async fn emit(&mut self, connection: &mut PgConnection, key: &str, events: i64) -> Result<(), BoxError> {
        let last: i64 = sqlx::query_scalar(
            "insert into counters values ($1, $2) on conflict (key) do update set n = counters.n + $2 returning n",
        )
        .bind(key)
        .bind(events)
        .fetch_one(&mut *connection)
        .await?;
        let (key, outbox, numbers) = (key.to_owned(), Outbox::new(), last - events + 1..=last);
        let counted = |n| Counted { key: key.clone(), n };
        match self.rng.u8(0..5) {
            0 => {
                let events: Vec<_> = numbers.map(counted).collect();
                outbox.copy(connection, &events).await?;
            }
            1 => {
                let events: Vec<_> = numbers.map(|n| Tallied { key: key.clone(), n }).collect();
                outbox.emit_all(connection, &events).await?;
            }
            2 => {
                let events: Vec<_> = numbers.map(counted).collect();
                outbox.emit_all(connection, &events).await?;
            }
            3 => {
                sqlx::query(
                    "select event_box.emit('test.counted', json_build_object('key', $1::text, 'n', n), $1)
                     from generate_series($2::bigint, $3) as n",
                )
                .bind(&key)
                .bind(last - events + 1)
                .bind(last)
                .execute(connection)
                .await?;
            }
            _ => {
                for n in numbers {
                    match n % 3 {
                        0 => outbox.emit(&mut *connection, &Tallied { key: key.clone(), n }).await?,
                        _ => outbox.emit(&mut *connection, &counted(n)).await?,
                    };
                }
            }
        }
        Ok(())
    }
}
