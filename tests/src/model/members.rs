use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use event_box::EventBox;
use fastrand::Rng;
use sqlx::postgres::PgPoolOptions;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{
    groups::{Kind, State, Whims},
    oracle,
    phase::{Phase, Phases, sleep, wait_for},
    world::World,
};

/// Runs a group, and stops, cuts off and replaces its consumers, each with other settings.
pub(super) struct Chaos {
    world: &'static World,
    kind: Kind,
    state: State,
    rng: Rng,
    phases: Phases,
}

impl Chaos {
    pub(super) fn new(world: &'static World, kind: Kind, rng: Rng, phases: Phases) -> Self {
        let state = Whims::new(world.consumers.clone(), "task".to_owned(), world.options.seed);
        Self { world, kind, state, rng, phases }
    }

    pub(super) async fn run(mut self) -> Result<()> {
        if let Some(after) = self.kind.comes_after() {
            let narrow = self.kind == Kind::Widened;
            if narrow {
                self.live(after, true).await?;
            } else {
                sleep(&mut self.phases, after, &[Phase::Settling, Phase::Over]).await;
            }
            self.grow().await?;
        }
        loop {
            // While the puller is to be alone, no other group runs.
            let phase = wait_for(&mut self.phases, &[Phase::Busy, Phase::Calm, Phase::Upkeep]).await;
            if phase == Phase::Over {
                return Ok(());
            }
            let life = Duration::from_millis(self.rng.u64(300..2_500));
            self.live(life, false).await?;
        }
    }

    /// One consumer's life; over as soon as only the puller is to run, but not in the calm, nor while all must arrive by itself.
    async fn live(&mut self, life: Duration, narrow: bool) -> Result<()> {
        // With a listener of its own at times.
        let log = if self.rng.bool() { self.world.log.clone() } else { EventBox::from(&self.world.consumers) };
        let consumer = self.kind.consumer(log, self.state, &mut self.rng, narrow)?;
        let token = CancellationToken::new();
        let mut running = tokio::spawn(consumer.run(token.clone()));
        let mut phase = sleep(&mut self.phases, life, &[Phase::Pulling, Phase::Over]).await;
        if matches!(phase, Phase::Calm | Phase::Upkeep | Phase::Settling) {
            phase = wait_for(&mut self.phases, &[Phase::Busy, Phase::Pulling]).await;
        }
        if phase == Phase::Settling {
            phase = sleep(&mut self.phases, Duration::MAX, &[Phase::Over]).await;
        }
        if phase == Phase::Busy && self.rng.u8(..) < 60 {
            // As where its future is dropped in the middle of whatever it does.
            self.world.fault();
            running.abort();
            let _ = (&mut running).await;
            return Ok(());
        }
        token.cancel();
        running.await.context("a consumer panicked")?.with_context(|| format!("group {}", self.kind.group()))
    }

    /// The group comes into being, or reads more, and what it owes from here on is written down.
    async fn grow(&mut self) -> Result<()> {
        let (group, pool) = (self.kind.group(), &self.world.pool);
        let consumer = self.kind.consumer(self.world.log.clone(), self.state, &mut self.rng, false)?;
        let token = CancellationToken::new();
        let running = tokio::spawn(consumer.run(token.clone()));
        let there =
            "select exists (select from event_box.consumer_groups where name = $1 and 'test.tallied' = any(topics))";
        // A fault in between is no answer.
        while !sqlx::query_scalar::<_, bool>(there).bind(group).fetch_one(pool).await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Err(error) = oracle::owes_from_now_on(self.world, self.kind).await {
            ensure!(self.world.options.faults, "{error:#}");
        }
        self.world.has_grown(self.kind);
        token.cancel();
        running.await?.with_context(|| format!("group {group}"))
    }
}

/// Processes of any group, one after the other, asked to stop or killed.
pub(super) async fn processes(world: &'static World, mut rng: Rng, mut phases: Phases) -> Result<()> {
    loop {
        if wait_for(&mut phases, &[Phase::Busy]).await >= Phase::Settling {
            return Ok(());
        }
        // One of them most often, so that its partitions are fought for.
        let kind = if rng.bool() { Kind::Single } else { Kind::ALL[rng.usize(0..Kind::ALL.len())] };
        if !world.is_grown(kind) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let program = std::env::current_exe()?;
        let arguments = ["member", world.url(), kind.group(), &rng.u64(..).to_string()];
        let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        sleep(
            &mut phases,
            Duration::from_millis(rng.u64(300..3_000)),
            &[Phase::Calm, Phase::Upkeep, Phase::Pulling, Phase::Settling],
        )
        .await;
        if rng.u8(..) < 150 {
            world.fault();
            child.kill().await?;
        } else {
            let id = child.id().context("it runs")?.to_string();
            ensure!(Command::new("kill").args(["-TERM", &id]).status().await?.success(), "kill failed");
            let status = child.wait().await?;
            // Before it listens for the signal, that kills it.
            let too_soon = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
            // A server that dies under a process before it consumes is a reason to end.
            let excused = too_soon || world.options.faults;
            ensure!(status.success() || excused, "a process of group {} ended with {status}", kind.group());
        }
    }
}

/// Such a process.
///
/// # Errors
/// Where the consumer ends with one.
pub async fn member(url: &str, group: &str, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let kind = Kind::of(group).context("no such group in the model")?;
    let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(60)).connect(url).await?;
    let state = Whims::new(pool.clone(), format!("process {}", std::process::id()), seed);
    let consumer = kind.consumer(EventBox::from(pool), state, &mut rng, false)?;
    Ok(consumer.run_until_signal().await?)
}
