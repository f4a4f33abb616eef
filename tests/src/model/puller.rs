use std::time::Duration;

use anyhow::{Context as _, Result};
use event_box::{Backoff, Pull, PullBuilder};
use fastrand::Rng;
use tokio::{sync::watch, time::sleep};

use super::{
    emitters::emit,
    events::{Any, Loose},
    groups::WHIM,
    phase::{Phase, Phases},
    world::World,
};
use crate::{Counted, Tallied};

/// A group without handlers.
pub(super) const GROUP: &str = "pull";

/// Pulls in transactions that emit before and between, take several batches of several partitions, fail events, and are rolled back at
/// times. `emits` is dropped once it emits no more.
pub(super) struct Puller {
    world: &'static World,
    rng: Rng,
    phases: Phases,
    emits: Option<watch::Sender<()>>,
}

impl Puller {
    /// And what tells when it emits no more: by its end.
    pub(super) fn new(world: &'static World, rng: Rng, phases: Phases) -> (Self, watch::Receiver<()>) {
        let (emits, emitting) = watch::channel(());
        (Self { world, rng, phases, emits: Some(emits) }, emitting)
    }

    pub(super) async fn run(mut self) -> Result<()> {
        let pull = loop {
            let builder =
                PullBuilder::new(self.world.log.clone(), GROUP).event::<Counted>().event::<Tallied>().event::<Loose>();
            match builder.backoff(Backoff::fixed(Duration::from_millis(50))).max_attempts(1_000).open().await {
                Ok(pull) => break pull,
                Err(error) if !self.world.options.faults => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        loop {
            let phase = *self.phases.borrow();
            if phase >= Phase::Settling {
                self.emits = None;
            }
            if phase == Phase::Over {
                return Ok(());
            }
            match self.transaction(&pull, phase).await {
                Ok(true) => {}
                Ok(false) => {
                    // When all must arrive by itself, nothing but the wait finds it.
                    let patience = if phase < Phase::Settling { Duration::from_millis(50) } else { Duration::MAX };
                    tokio::select! {
                        waited = pull.wait() => drop(waited),
                        _ = super::phase::sleep(&mut self.phases, patience, &[Phase::Over]) => {}
                    }
                }
                Err(error) if !self.world.options.faults => return Err(error.context("a pull")),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Answers whether there was anything.
    async fn transaction(&mut self, pull: &Pull, phase: Phase) -> Result<bool> {
        let mut tx = self.world.pool.begin().await?;
        let often = if phase == Phase::Pulling { 150 } else { 50 };
        // Keys of its own, neighbours of the slow emitters'.
        for key in &self.world.neighbours[..2] {
            if phase < Phase::Settling && self.rng.u8(..) < often {
                emit(&mut tx, key, 1, 3).await?;
                sleep(Duration::from_millis(self.rng.u64(0..30))).await;
            }
        }
        let mut any = false;
        for _ in 0..self.rng.usize(1..4) {
            let mut batch = pull.batch(&mut tx, [1, 7, 100, 1_000][self.rng.usize(0..4)]).await?;
            any |= !batch.is_empty();
            while let Some(event) = batch.next() {
                if event.attempt() <= 2 && self.rng.u8(..) < 3 {
                    batch.fail(&mut tx, event, WHIM).await?;
                    continue;
                }
                let Counted { key, n } = event.decode::<Any>().context("a pulled event")?.into_counted();
                let insert = "insert into seen (member, grp, key, n) values ('puller', $1, $2, $3)";
                sqlx::query(insert).bind(GROUP).bind(key).bind(n).execute(&mut *tx).await?;
            }
        }
        if self.rng.u8(..) < 30 {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        Ok(any)
    }
}
