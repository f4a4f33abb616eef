use std::time::Duration;

use anyhow::Result;
use event_box::{Cancellation, Outbox};
use fastrand::Rng;
use sqlx::PgConnection;
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    events::{Any, LOOSE},
    oracle,
    phase::{Phase, Phases, wait_for},
    world::World,
};

/// An application that serialises its transactions per key: by a lock on the key's counter, taken before the emit.
pub(super) struct Emitter {
    world: &'static World,
    number: u64,
    rng: Rng,
    phases: Phases,
    /// What may yet be cancelled.
    delayed: Vec<(Uuid, String, i64)>,
}

impl Emitter {
    pub(super) fn new(world: &'static World, number: u64, phases: Phases) -> Self {
        Self { world, number, rng: world.rng(10 + number), phases, delayed: Vec::new() }
    }

    /// Two of them are slow, and alone with that in calm phases.
    fn is_slow(&self) -> bool {
        self.number < 2
    }

    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            let mine: &[Phase] = match self.number {
                0 => &[Phase::Busy, Phase::Calm, Phase::Upkeep, Phase::Pulling],
                1 => &[Phase::Busy, Phase::Calm, Phase::Upkeep],
                _ => &[Phase::Busy],
            };
            let phase = wait_for(&mut self.phases, mine).await;
            if phase >= Phase::Settling {
                return Ok(());
            }
            if let Err(error) = self.transaction(phase).await {
                // What became of it, the counters know.
                if !self.world.options.faults {
                    return Err(error.context("an emitter's transaction"));
                }
                sleep(Duration::from_millis(50)).await;
            }
            if !self.is_slow() {
                sleep(Duration::from_millis(self.rng.u64(0..25))).await;
            }
        }
    }

    async fn transaction(&mut self, phase: Phase) -> Result<()> {
        let mut tx = self.world.pool.begin().await?;
        if self.rng.u8(..) < if phase == Phase::Busy { 40 } else { 128 } {
            // It has an id long before it emits.
            sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await?;
            self.pause(phase).await;
        }
        if phase == Phase::Busy && self.rng.u8(..) < 20 {
            self.cancel(&mut tx).await?;
        }
        for key in self.keys(phase) {
            if self.rng.u8(..) < 30 {
                sqlx::query("savepoint mine").execute(&mut *tx).await?;
                self.emit(&mut tx, &key, 2).await?;
                sqlx::query("rollback to savepoint mine").execute(&mut *tx).await?;
            }
            let events = match self.rng.u16(..) {
                _ if phase != Phase::Busy => 1,
                0..30 => 2_000,
                30..1_000 => 100,
                _ => 1,
            };
            self.emit(&mut tx, &key, events).await?;
            if self.is_slow() || self.rng.u8(..) < 25 {
                self.pause(phase).await;
            }
        }
        if self.rng.u8(..) < 30 {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        Ok(())
    }

    /// Ascending, so that emitters do not deadlock.
    fn keys(&mut self, phase: Phase) -> Vec<String> {
        let neighbours = &self.world.neighbours[2..];
        let mut keys: Vec<_> = match phase {
            Phase::Busy => (0..self.rng.usize(1..4))
                .map(|_| match self.rng.u8(0..16) {
                    0 => LOOSE.to_owned(),
                    1 => format!("d{}", self.rng.u8(0..4)),
                    2..6 => neighbours[self.rng.usize(0..neighbours.len())].clone(),
                    _ => format!("e{:02}", self.rng.u8(0..20)),
                })
                .collect(),
            // They do not wait for each other.
            _ => neighbours[self.number as usize * 3..][..self.rng.usize(1..3)].to_vec(),
        };
        keys.sort();
        keys.dedup();
        keys
    }

    async fn pause(&mut self, phase: Phase) {
        let most = match (phase, self.is_slow()) {
            (Phase::Busy, true) => 250,
            _ => 40,
        };
        sleep(Duration::from_millis(self.rng.u64(1..most))).await;
    }

    async fn emit(&mut self, connection: &mut PgConnection, key: &str, events: i64) -> Result<()> {
        if key.starts_with('d') {
            let n = count(connection, key, 1).await?;
            let delay = Duration::from_millis(self.rng.u64(0..1_500));
            let id = Outbox::new().emit(connection, &Any::new(key, n)).delay(delay).await?;
            self.delayed.push((id, key.to_owned(), n));
            return Ok(());
        }
        emit(connection, key, events, self.rng.u8(0..4)).await
    }

    /// One of those that were to come, whether it was rolled back or not.
    async fn cancel(&mut self, connection: &mut PgConnection) -> Result<()> {
        if self.delayed.is_empty() {
            return Ok(());
        }
        let (id, key, n) = self.delayed.swap_remove(self.rng.usize(0..self.delayed.len()));
        if Outbox::new().cancel(&mut *connection, id).await? == Cancellation::Cancelled {
            sqlx::query("insert into cancelled values ($1, $2)").bind(key).bind(n).execute(connection).await?;
        }
        Ok(())
    }
}

/// Takes the next so many numbers of a key, under its lock, and answers with the last.
pub(super) async fn count(connection: &mut PgConnection, key: &str, events: i64) -> Result<i64> {
    let next = "insert into counters values ($1, $2) on conflict (key) do update set n = counters.n + $2 returning n";
    Ok(sqlx::query_scalar(next).bind(key).bind(events).fetch_one(connection).await?)
}

/// The next so many of a key, by one of the ways to write them.
pub(super) async fn emit(connection: &mut PgConnection, key: &str, events: i64, way: u8) -> Result<()> {
    let last = count(connection, key, events).await?;
    let outbox = Outbox::new();
    let events: Vec<_> = (last - events + 1..=last).map(|n| Any::new(key, n)).collect();
    match way {
        0 => drop(outbox.copy(connection, &events).await?),
        1 => drop(outbox.emit_all(connection, &events).await?),
        2 if key != LOOSE => {
            let function = "select event_box.emit(case n % 3 when 0 then 'test.tallied' else 'test.counted' end,
                                                  json_build_object('key', $1::text, 'n', n), $1)
                            from generate_series($2::bigint, $3) as n";
            let first = last - events.len() as i64 + 1;
            sqlx::query(function).bind(key).bind(first).bind(last).execute(connection).await?;
        }
        _ => {
            for event in &events {
                outbox.emit(&mut *connection, event).await?;
            }
        }
    }
    Ok(())
}

/// An event that was written before another and is committed long after it, with nobody else at work: by a transaction that no snapshot
/// knows, since none that began later has ended. Handlers refuse some at first.
pub(super) async fn last_word(world: &World) -> Result<()> {
    let [_, _, late, early, ..] = &world.neighbours[..] else { unreachable!("there are eight") };
    let mut first = world.pool.begin().await?;
    sqlx::query("select pg_current_xact_id()").execute(&mut *first).await?;
    let mut second = world.pool.begin().await?;
    // COPY notifies nobody: only the idle rule finds what was written so.
    emit(&mut second, late, 2, 0).await?;
    emit(&mut first, early, 2, 3).await?;
    first.commit().await?;
    oracle::all_arrives(world).await?;
    second.commit().await?;
    oracle::all_arrives(world).await
}
