//! The model check: a seeded, random history of emitters, groups, processes and maintenance against a real PostgreSQL, and an oracle that
//! knows what every group must have been given. The seed repeats what is drawn, though not how the server interleaves it.

mod emitters;
mod events;
mod groups;
mod history;
mod maintenance;
mod members;
mod oracle;
mod phase;
mod puller;
mod world;

use std::{
    fmt,
    ops::AddAssign,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

pub use self::members::member;
use self::{groups::Kind, members::Chaos, phase::Clock, puller::Puller, world::World};

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Of everything that is drawn.
    pub seed: u64,
    /// How long emitters are at work; what comes after takes a few seconds more.
    pub time: Duration,
    /// Backends are terminated and the server is killed, besides all that happens anyway.
    pub faults: bool,
}

/// What a history came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Committed.
    pub events: u64,
    /// Over all groups, as far as a trace of it was committed.
    pub deliveries: u64,
    /// Processes and tasks that were killed or cut off, backends and servers too.
    pub faults: u64,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.faults += other.faults;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events, {} deliveries, {} faults", self.events, self.deliveries, self.faults)
    }
}

/// Runs one history and checks it.
///
/// # Errors
/// What the oracle found, with the history of the partition; or where the model itself does not get on.
pub async fn run(options: Options) -> Result<Summary> {
    let world = World::start(options).await?;
    let outcome = history(world).await;
    let summary = world.summary().await;
    world.end().await;
    outcome?;
    summary
}

async fn history(world: &'static World) -> Result<()> {
    let clock = Clock::start(world.options.time, world.rng(1));
    let mut emitters = JoinSet::new();
    for i in 0..7 {
        emitters.spawn(emitters::Emitter::new(world, i, clock.watch()).run());
    }
    let mut rest = JoinSet::new();
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        rest.spawn(Chaos::new(world, kind, world.rng(100 + i as u64), clock.watch()).run());
    }
    for i in 0..2 {
        rest.spawn(members::processes(world, world.rng(200 + i), clock.watch()));
    }
    let (puller, mut emitting) = Puller::new(world, world.rng(300), clock.watch());
    rest.spawn(puller.run());
    rest.spawn(maintenance::prune(world, clock.watch()));
    rest.spawn(maintenance::replay(world, world.rng(301), clock.watch()));
    rest.spawn(maintenance::forward(world, world.rng(302), clock.watch()));
    rest.spawn(maintenance::terminate(world, world.rng(303), clock.watch()));
    while let Some(ended) = emitters.join_next().await {
        ended.context("an emitter panicked")??;
    }
    clock.emitted();
    let _ = emitting.changed().await;
    let began = Instant::now();
    let settled = async {
        oracle::all_arrives(world).await?;
        for _ in 0..5 {
            emitters::last_word(world).await?;
        }
        Ok(())
    };
    let settled: Result<()> = settled.await;
    clock.end();
    while let Some(ended) = rest.join_next().await {
        ended.context("a part of the model panicked")??;
    }
    tracing::debug!(after = ?began.elapsed(), "all has arrived");
    settled?;
    oracle::check(world).await
}
