use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sqlx::{Postgres, pool::PoolConnection};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    batch::{Assignment, BatchError, Done, Unavailable},
    check::LogError,
    error::is_missing_table,
    failure::chain,
    look::Look,
    outage::{Outage, Probe},
    poll::Poll,
    pulse::{Hint, Pulse, Server},
    read::ReadError,
    ready::Ready,
    run_error::RunError,
    savepoint::MAX_SAVEPOINTS,
    trouble::Trouble,
    verdict::{Verdict, Verdicts},
    worker::{Answer, Shared},
};

/// A look is made at least this often, whatever the polls say.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// For this long after an announcement every move of the log is looked into at once.
const HEARD: Duration = Duration::from_millis(20);

/// Runs the batches of one group in this process: decides when to look for work, and hands partitions to at most so many workers.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    workers: usize,
    poll_interval: Duration,
    ready: Ready,
    tasks: JoinSet<Finished>,
    /// Kept while there is work, so that a batch does not ask the pool.
    connections: Vec<PoolConnection<Postgres>>,
    /// Events that cost a batch its connection, by partition.
    verdicts: HashMap<i16, Verdicts>,
    /// Partitions whose batch the server refused as a whole: one event at a time, until the culprit is found.
    narrowed: HashSet<i16>,
    limit: usize,
    /// The poll before the last look, where that found nothing at all.
    settled: Option<Arc<Poll>>,
    last_value: Option<i64>,
    looking: bool,
    look_wanted: bool,
    look_at: Instant,
    looked_at: Instant,
    /// When an event for this group was last announced.
    heard_at: Instant,
    trouble: Trouble,
    /// Partitions that the database failed by themselves.
    troubled: HashMap<i16, Trouble>,
    outage: Option<Outage>,
    /// The partition whose batch is a probe.
    probing: Option<i16>,
    /// Nothing may be delivered, as the last look said.
    paused: bool,
}

enum Finished {
    Batch(i16, Answer<Result<Option<Done>, BatchError>>),
    Look(Option<Arc<Poll>>, Answer<Result<Option<Look>, sqlx::Error>>),
}

impl Scheduler {
    pub(crate) fn new(shared: Arc<Shared>, pulse: Arc<Pulse>, workers: usize, poll_interval: Duration) -> Self {
        let now = Instant::now();
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
            narrowed: HashSet::new(),
            settled: None,
            last_value: None,
            looking: false,
            look_wanted: true,
            look_at: now,
            looked_at: now,
            heard_at: now,
            trouble: Trouble::none(),
            troubled: HashMap::new(),
            outage: None,
            probing: None,
            paused: false,
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
            let wake_at = if now < self.trouble.not_before { self.trouble.not_before } else { self.look_at };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(finished) = self.tasks.join_next() => match finished {
                    Ok(Finished::Batch(partition, (connection, result))) => {
                        self.connections.extend(connection);
                        self.batch_finished(partition, result)?;
                    }
                    Ok(Finished::Look(poll, (connection, result))) => {
                        self.connections.extend(connection);
                        self.look_finished(poll, result)?;
                        // What was polled meanwhile had nothing to be compared with.
                        self.compare(&server)?;
                    }
                    // Handlers' panics are caught where they are called: this one is ours.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
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
        while self.tasks.len() < self.workers {
            // Busy partitions must not keep us from seeing the others.
            let look_first = self.look_wanted && !self.looking && now >= self.looked_at + self.poll_interval;
            if let Some((partition, assignment)) = (!look_first).then(|| self.next_batch()).flatten() {
                let (shared, connection) = (self.shared.clone(), self.connections.pop());
                self.tasks.spawn(async move {
                    Finished::Batch(partition, shared.batch(connection, partition, &assignment).await)
                });
            } else if self.look_wanted && !self.looking {
                (self.look_wanted, self.looking, self.looked_at) = (false, true, now);
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
        loop {
            let partition = self.ready.pop()?;
            match self.troubled.get(&partition) {
                Some(trouble) if now < trouble.not_before => {
                    self.look_at = self.look_at.min(trouble.not_before);
                    self.ready.finished(partition, false);
                }
                _ => return Some(partition),
            }
        }
    }

    fn next_batch(&mut self) -> Option<(i16, Assignment)> {
        let (partition, events, suspect) = match self.outage.as_ref().map(Outage::next) {
            None => {
                let partition = self.next_ready()?;
                let narrowed = self.narrowed.contains(&partition);
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

    fn hear(&mut self, hint: Result<Hint, broadcast::error::RecvError>) {
        let partition = match hint {
            Ok(hint) if hint.concerns(self.shared.dispatch.topics()) => hint.partition,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // Not ours; and the pulse lives as long as we do.
            Ok(_) | Err(broadcast::error::RecvError::Closed) => return,
        };
        if self.paused {
            return;
        }
        self.heard_at = Instant::now();
        match partition {
            Some(partition) => self.ready.announce(partition),
            None => self.look_wanted = true,
        }
    }

    /// The idle rule: looks only where the polls say that there may be something.
    fn compare(&mut self, server: &watch::Receiver<Server>) -> Result<(), RunError> {
        match &*server.borrow() {
            Server::Live(poll) => {
                if self.last_value.is_none() && self.outage.is_none() {
                    // The server is back: no reason to sit out a pause.
                    self.trouble.not_before = Instant::now();
                }
                let moved = self.last_value.replace(poll.last_value) != Some(poll.last_value);
                if moved || self.settled.as_ref().is_some_and(|settled| settled.is_outdated_by(poll)) {
                    self.settled = None;
                    let now = Instant::now();
                    if now < self.heard_at + HEARD {
                        // Neighbours of what was announced.
                        self.look_wanted = true;
                    } else {
                        // Most likely none of ours: a busy log must not keep an idle group looking.
                        self.look_at = self.look_at.min(self.looked_at + self.poll_interval);
                    }
                }
                Ok(())
            }
            Server::Unknown => {
                (self.settled, self.last_value) = (None, None);
                self.look_wanted = true;
                Ok(())
            }
            Server::Standby => Err(RunError::Log(LogError::Standby)),
        }
    }

    fn look_finished(
        &mut self,
        poll: Option<Arc<Poll>>,
        result: Result<Option<Look>, sqlx::Error>,
    ) -> Result<(), RunError> {
        self.looking = false;
        let look = match result {
            Ok(Some(look)) => look,
            Ok(None) => return Err(self.group_removed()),
            Err(error) => {
                self.settled = None;
                return self.trouble(None, error);
            }
        };
        if std::mem::replace(&mut self.paused, look.paused) != look.paused {
            let (group, what) = (&self.shared.group, if look.paused { "paused" } else { "resumed" });
            tracing::info!(group, "the group was {what}");
        }
        if self.outage.is_none() && (look.partitions.is_empty() || self.trouble.partition.is_none()) {
            self.recovered();
        }
        let now = Instant::now();
        self.look_at = now + look.retry_in.map_or(LOOK_ANYWAY, |wait| wait.min(LOOK_ANYWAY));
        self.settled = if look.partitions.is_empty() { poll } else { None };
        for partition in look.partitions {
            self.ready.push(partition);
        }
        if self.settled.is_some() && self.tasks.is_empty() {
            // Back to the pool: other groups may need them.
            self.connections.clear();
        }
        Ok(())
    }

    fn batch_finished(&mut self, partition: i16, result: Result<Option<Done>, BatchError>) -> Result<(), RunError> {
        let mut more = false;
        let probed = self.probing.take_if(|probing| *probing == partition).is_some();
        match result {
            Ok(Some(done)) => {
                if let Some(verdicts) = self.verdicts.get_mut(&partition) {
                    verdicts.retain(|sequence, _| done.more && !done.judged.contains(sequence));
                }
                if !done.more || !done.judged.is_empty() {
                    self.narrowed.remove(&partition);
                }
                self.look_wanted = true;
                self.limit =
                    if done.out_of_savepoints { MAX_SAVEPOINTS as usize } else { self.shared.policy.batch_size };
                more = done.more;
                if done.waits {
                    self.look_at = self.look_at.min(Instant::now() + self.poll_interval);
                }
                match &done.unavailable {
                    Some(unavailable) => self.unavailable(partition, probed, unavailable.clone()),
                    None if probed => self.probed(partition, &done),
                    None => self.delivered(partition),
                }
            }
            // Another process works on it: looking again at once would spin.
            Ok(None) => {
                self.look_at = self.look_at.min(Instant::now() + self.poll_interval);
                if probed {
                    self.trouble.back_off(Some(partition));
                }
            }
            Err(BatchError::Verdict { sequence, verdict }) => {
                self.verdicts.entry(partition).or_default().insert(sequence, verdict);
                more = true;
            }
            Err(BatchError::Refused(error)) => {
                let group = &self.shared.group;
                tracing::warn!(
                    group,
                    partition,
                    error = chain(&error),
                    "a batch was refused, its events are tried one by one"
                );
                self.narrowed.insert(partition);
                more = true;
            }
            Err(BatchError::Read(ReadError::GroupRemoved)) => return Err(self.group_removed()),
            Err(BatchError::Read(ReadError::ForeignLog)) => {
                return Err(RunError::Log(LogError::Foreign { schema: self.shared.log.schema().name().to_owned() }));
            }
            Err(BatchError::Read(ReadError::Mode { stored })) => {
                let (group, own) = (self.shared.group.clone(), self.shared.policy.mode);
                return Err(RunError::Mode { group, stored, own });
            }
            Err(BatchError::Read(ReadError::Database(error))) => {
                more = is_connection_trouble(&error);
                self.trouble(Some(partition), error)?;
            }
        }
        self.settled = None;
        self.ready.finished(partition, more);
        Ok(())
    }

    fn group_removed(&self) -> RunError {
        RunError::GroupRemoved { group: self.shared.group.clone() }
    }

    /// The database failed us. Backs off, or gives up where time will not mend it.
    fn trouble(&mut self, partition: Option<i16>, error: sqlx::Error) -> Result<(), RunError> {
        let code = error.as_database_error().and_then(|error| error.code());
        // insufficient_privilege: a grant is missing.
        let lasting = is_missing_table(&error) || code.is_some_and(|code| code == "42501");
        if lasting || matches!(error, sqlx::Error::PoolClosed) {
            return Err(RunError::Log(LogError::from_database(error, self.shared.log.schema())));
        }
        let lost = is_connection_trouble(&error);
        let group = &self.shared.group;
        match partition.filter(|_| !lost) {
            // The others may be well.
            Some(partition) => {
                let trouble = self.troubled.entry(partition).or_insert_with(Trouble::none);
                if trouble.back_off(Some(partition)) {
                    tracing::warn!(group, partition, error = chain(&error), "events cannot be delivered, trying on");
                }
                self.look_at = self.look_at.min(trouble.not_before);
            }
            None => {
                self.look_wanted = true;
                if self.trouble.back_off(partition) {
                    tracing::warn!(group, error = chain(&error), "events cannot be delivered, trying on");
                }
            }
        }
        Ok(())
    }

    /// A batch went through.
    fn delivered(&mut self, partition: i16) {
        if self.troubled.remove(&partition).is_some() {
            tracing::info!(group = self.shared.group, partition, "events are delivered again");
        }
        if self.outage.is_none() && self.trouble.partition.is_some() {
            self.recovered();
        }
    }

    /// A handler says that what it depends on is down.
    fn unavailable(&mut self, partition: i16, probed: bool, unavailable: Unavailable) {
        let group = &self.shared.group;
        match &mut self.outage {
            Some(outage) if probed => outage.failed(partition, unavailable),
            // Another worker's batch, begun before that was known.
            Some(_) => return,
            None => {
                let (sequence, error) = (unavailable.sequence, &unavailable.error);
                tracing::warn!(group, sequence, error, "what the handler depends on is down, the group backs off");
                self.outage = Some(Outage::new(partition, unavailable));
            }
        }
        let Some(outage) = &self.outage else { return };
        if outage.proven {
            let Unavailable { sequence, error, .. } = outage.suspect();
            let verdict = Verdict::alone_unavailable(error);
            self.verdicts.entry(partition).or_default().insert(*sequence, verdict);
            self.outage = None;
            self.recovered();
        } else if !matches!(outage.next(), Probe::Elsewhere(_)) {
            // Where the suspect has just been refused again, its comparison does not wait.
            self.trouble.back_off(Some(partition));
        }
    }

    /// A probe went through, or found nothing to try.
    fn probed(&mut self, partition: i16, done: &Done) {
        if done.handled == 0 && done.failures.is_empty() && done.more {
            return;
        }
        match &mut self.outage {
            Some(outage) if partition != outage.partition && done.handled > 0 => outage.proven = true,
            _ => {
                self.outage = None;
                self.recovered();
            }
        }
    }

    fn recovered(&mut self) {
        if self.trouble.is_over() {
            tracing::info!(group = self.shared.group, "events are delivered again");
        }
    }
}

/// The server as a whole cannot be reached, or is starting up, shutting down or full.
fn is_connection_trouble(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "57P", "53"].iter().any(|class| code.starts_with(class)))
        }
        _ => true,
    }
}
