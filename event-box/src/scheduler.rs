mod idle;
mod outcome;
mod rounds;
mod sweeps;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    batch::{Assignment, BatchError, Done},
    held::Kept,
    look::Look,
    outage::{Outage, Probe},
    pace::Pace,
    poll::Poll,
    pulse::{Pulse, Server},
    ready::Ready,
    round::{Concurrency, Finish},
    router::DispatchDetached,
    run_error::RunError,
    slots::Slots,
    trouble::Trouble,
    verdict::Verdicts,
    worker::{Answer, Shared},
};

/// What a look costs, in partitions of a sweep.
const PARTITIONS_OF_A_LOOK: usize = 8;
/// A look is made at least this often, whatever the polls say.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// Runs the batches of one group in this process: decides when to look for work, and hands partitions to at most so many workers.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    workers: usize,
    poll_interval: Duration,
    ready: Ready,
    tasks: JoinSet<Finished>,
    /// Kept while there is work, so that a batch does not ask the pool.
    connections: Vec<Kept>,
    /// Events that cost a batch its connection, by partition.
    verdicts: HashMap<i16, Verdicts>,
    /// Partitions whose batch was refused as a whole, and how many of its events are still to be tried one at a time: until the culprit is
    /// found, or there is none.
    narrowed: HashMap<i16, usize>,
    limit: usize,
    /// A poll as of which there is nothing for a look to find: the one before a look that found nothing, or a later one that saw only what
    /// was announced.
    settled: Option<Arc<Poll>>,
    last_value: Option<i64>,
    looking: bool,
    look_wanted: bool,
    look_at: Instant,
    looked_at: Instant,
    /// When it was last announced that events of this group may follow which are not.
    dense_at: Instant,
    /// The last look, and all sweeps since, found events in most partitions.
    everywhere: bool,
    /// How many events were announced since the last poll, each by itself, and when the last of them was.
    announced: u64,
    heard_at: Instant,
    trouble: Trouble,
    /// Partitions that the database failed by themselves.
    troubled: HashMap<i16, Trouble>,
    outage: Option<Outage>,
    /// The partition whose batch is a probe.
    probing: Option<i16>,
    /// Nothing may be delivered, as the last look said.
    paused: bool,
    /// What a concurrent group's rounds need.
    concurrency: Option<Concurrency>,
    /// A round is taking partitions.
    claiming: bool,
    released: mpsc::UnboundedReceiver<Vec<i16>>,
    /// Partitions whose events go in batches of their own: after a death, or because of retries.
    careful: HashSet<i16>,
    /// Partitions with more events than a sweep takes.
    deep: HashSet<i16>,
    /// Handlers were slow: no sweeps before this.
    slow_until: Instant,
    /// And no large ones before this.
    not_quick_until: Instant,
    pace: Pace,
    /// Connections go back to the pool then, where there is still no work.
    rest_at: Instant,
}

enum Finished {
    Batch(i16, Answer<Result<Option<Done>, BatchError>>),
    Round(Vec<i16>, Answer<Result<Vec<(i16, Finish)>, BatchError>>),
    Look(Option<Arc<Poll>>, Answer<Result<Option<Look>, sqlx::Error>>),
}

impl Scheduler {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pulse: Arc<Pulse>,
        workers: usize,
        poll_interval: Duration,
        concurrent: Option<(Arc<dyn DispatchDetached>, usize)>,
    ) -> Self {
        let now = Instant::now();
        let (sender, released) = mpsc::unbounded_channel();
        let concurrency = concurrent.map(|(handlers, size)| Concurrency {
            handlers,
            slots: Arc::new(Slots::new(size)),
            released: sender,
        });
        Self {
            limit: shared.policy.batch_size,
            shared,
            pulse,
            workers,
            poll_interval,
            ready: Ready::default(),
            tasks: JoinSet::new(),
            connections: Vec::new(),
            verdicts: HashMap::new(),
            narrowed: HashMap::new(),
            settled: None,
            last_value: None,
            looking: false,
            look_wanted: true,
            look_at: now,
            looked_at: now,
            dense_at: now,
            everywhere: false,
            announced: 0,
            heard_at: now,
            trouble: Trouble::none(),
            troubled: HashMap::new(),
            outage: None,
            probing: None,
            paused: false,
            concurrency,
            claiming: false,
            released,
            careful: HashSet::new(),
            deep: HashSet::new(),
            slow_until: now,
            not_quick_until: now,
            pace: Pace::new(now),
            rest_at: now,
        }
    }

    /// Until the token; then what runs has `shutdown_timeout`, and is rolled back after that.
    pub(crate) async fn run(mut self, shutdown_timeout: Duration) -> Result<(), RunError> {
        let ended = self.work().await;
        // Also where it ends with an error: neighbours finish their batch.
        self.shared.shutdown.cancel();
        let drained = tokio::time::timeout(shutdown_timeout, async { while self.tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(
                group = self.shared.group,
                ?shutdown_timeout,
                "handlers were still running after the shutdown time-out; their events are delivered again"
            );
            self.tasks.shutdown().await;
        }
        self.shared.process.ends().await;
        ended
    }

    async fn work(&mut self) -> Result<(), RunError> {
        let (mut server, mut hints) = (self.pulse.server(), self.pulse.hints());
        let shutdown = self.shared.shutdown.clone();
        loop {
            let now = Instant::now();
            self.start_tasks(now, &server);
            self.rest(now);
            let wake_at = self.wake_at(now);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(finished) = self.tasks.join_next() => match finished {
                    Ok(Finished::Batch(partition, (connection, result))) => {
                        self.connections.extend(connection);
                        self.spent(1, result.iter().flatten());
                        self.batch_finished(partition, result)?;
                    }
                    Ok(Finished::Round(taken, (connection, result))) => {
                        self.connections.extend(connection);
                        self.spent(taken.len(), result.iter().flatten().filter_map(|(_, finish)| finish.done()));
                        self.round_finished(taken, result)?;
                    }
                    Ok(Finished::Look(poll, (connection, result))) => {
                        self.connections.extend(connection);
                        self.spent(PARTITIONS_OF_A_LOOK, std::iter::empty());
                        self.look_finished(poll, result)?;
                        // What was polled meanwhile had nothing to be compared with.
                        self.compare(&server)?;
                    }
                    // Handlers' panics are caught where they are called: this one is ours.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(partitions) = self.released.recv() => self.released(partitions),
                () = freed(self.concurrency.as_ref()) => {}
                hint = hints.recv() => self.hear(hint),
                Ok(()) = server.changed() => self.compare(&server)?,
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    fn start_tasks(&mut self, now: Instant, server: &watch::Receiver<Server>) {
        if now < self.trouble.not_before {
            return;
        }
        if now >= self.look_at {
            self.look_wanted = true;
            self.look_at = now + LOOK_ANYWAY;
        }
        // Handlers that wait for others keep a round's worker for long: a look must not wait for them.
        let look = usize::from(self.concurrency.is_some() && !self.looking);
        while self.tasks.len() < self.workers + look {
            // Busy partitions must not keep us from seeing the others.
            let look_first = self.look_wanted && !self.looking && now >= self.looked_at + self.poll_interval;
            let rounds = self.tasks.len() < self.workers;
            if !look_first && rounds && (self.start_round() || self.start_sweep(now)) {
            } else if let Some((partition, assignment)) = (!look_first && rounds).then(|| self.next_batch()).flatten() {
                let (shared, connection) = (self.shared.clone(), self.connections.pop());
                self.tasks.spawn(async move {
                    Finished::Batch(partition, shared.batch(connection, partition, &assignment).await)
                });
            } else if self.look_wanted && !self.looking && (look_first || now >= self.pace.open_at()) {
                (self.look_wanted, self.looking, self.looked_at) = (false, true, now);
                // What happens from now on may be too late for this one.
                self.look_at = now + LOOK_ANYWAY;
                let poll = match &*server.borrow() {
                    Server::Live(poll) => Some(poll.clone()),
                    Server::Unknown | Server::Standby => None,
                };
                let (shared, connection) = (self.shared.clone(), self.connections.pop());
                self.tasks.spawn(async move { Finished::Look(poll, shared.look(connection).await) });
            } else {
                break;
            }
        }
    }

    /// Passes over partitions that are in trouble of their own: a later look finds them again.
    fn next_ready(&mut self) -> Option<i16> {
        let now = Instant::now();
        let paced = now < self.pace.open_at();
        loop {
            let partition = match paced {
                false => self.ready.pop()?,
                true => {
                    let next = self.ready.waiting().find(|number| !self.is_shallow(*number))?;
                    self.ready.take(next).then_some(next)?
                }
            };
            match self.troubled.get(&partition) {
                Some(trouble) if now < trouble.not_before => {
                    self.look_at = self.look_at.min(trouble.not_before);
                    self.ready.finished(partition, false);
                }
                _ => return Some(partition),
            }
        }
    }

    fn next_alone(&mut self) -> Option<i16> {
        let partition = self.ready.waiting().find(|partition| self.goes_alone(*partition))?;
        self.ready.take(partition).then_some(partition)
    }

    fn next_batch(&mut self) -> Option<(i16, Assignment)> {
        let (partition, events, suspect) = match self.outage.as_ref().map(Outage::next) {
            None => {
                // What is not for batches of one is for rounds.
                let partition = match self.concurrency {
                    None => self.next_ready()?,
                    Some(_) => self.next_alone()?,
                };
                let narrowed = self.narrowed.contains_key(&partition);
                (partition, if narrowed { 1 } else { self.limit }, None)
            }
            // One at a time.
            Some(_) if self.probing.is_some() => return None,
            Some(Probe::First(partition)) => (self.ready.take(partition).then_some(partition)?, 1, None),
            Some(Probe::Beside(partition, suspect)) => {
                (self.ready.take(partition).then_some(partition)?, self.limit, Some(suspect))
            }
            Some(Probe::Elsewhere(partition)) => match self.ready.pop_except(partition) {
                Some(partition) => (partition, 1, None),
                None => {
                    self.outage.as_mut().map(Outage::nothing_elsewhere);
                    self.trouble.back_off(Some(partition));
                    return None;
                }
            },
        };
        self.probing = self.outage.is_some().then_some(partition);
        let verdicts = self.verdicts.get(&partition).cloned().unwrap_or_default();
        Some((partition, Assignment { rows: self.limit, events, verdicts, suspect }))
    }
}

/// Waits until a concurrent group has room for more; for ever where the group is none.
async fn freed(concurrency: Option<&Concurrency>) {
    match concurrency {
        Some(concurrency) => concurrency.slots.freed().await,
        None => std::future::pending().await,
    }
}
