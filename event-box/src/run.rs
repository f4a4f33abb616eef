use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{
    attempt::{Fate, connection_lost, fate, swallowed},
    batch::{Batch, BatchError, Halt, Unavailable},
    deadline::by,
    event_info::EventInfo,
    failed::Failed,
    failpoint::failpoint,
    failure::{Failure, chain, is_conflict, is_outage},
    parked::{Parking, Reason, Tries},
    progress::Progress,
    record::Record,
    work::{Answer, Terms, Work},
};

/// Events that wait to be handed to a batch handler together, while others go out before them.
#[derive(Debug, Default)]
pub(crate) struct Run {
    handler: usize,
    records: Vec<Arc<Record>>,
    keys: HashSet<String>,
}

/// The runs that wait, one a batch handler.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<Run>);

impl Runs {
    /// How many events wait.
    pub(crate) fn events(&self) -> usize {
        self.0.iter().map(|run| run.records.len()).sum()
    }

    /// How many runs wait: each needs a savepoint.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether another handler's run waits.
    pub(crate) fn are_of_another(&self, handler: Option<usize>) -> bool {
        self.0.iter().any(|run| Some(run.handler) != handler)
    }

    pub(crate) fn push(&mut self, handler: usize, record: Arc<Record>) {
        let at = self.0.iter().position(|run| run.handler == handler).unwrap_or_else(|| {
            self.0.push(Run { handler, ..Run::default() });
            self.0.len() - 1
        });
        self.0[at].keys.extend(record.partition_key.clone());
        self.0[at].records.push(record);
    }

    /// Takes the first run that this holds of.
    fn take(&mut self, which: impl Fn(&Run) -> bool) -> Option<Run> {
        let at = self.0.iter().position(which)?;
        Some(self.0.remove(at))
    }
}

/// What is left to do of a run.
enum Part {
    /// For its handler.
    Run(Vec<Arc<Record>>),
    /// Its handler has named it.
    Failed(Arc<Record>, Failure),
}

impl Part {
    fn records(&self) -> &[Arc<Record>] {
        match self {
            Self::Run(records) => records,
            Self::Failed(record, _) => std::slice::from_ref(record),
        }
    }
}

/// What became of a run, or of a part of it.
enum RunFate {
    Handled,
    /// All but these.
    Partly(Vec<Part>),
    /// Again without these, and without what stands behind them in their keys.
    Without(Vec<Part>),
    Snoozed(Duration),
    /// An event of it is to blame, and it is not known which.
    Divided {
        unavailable: bool,
    },
    /// The batch ends before it.
    Ended(Option<Unavailable>),
}

impl Batch<'_> {
    /// The batch handler that may be given this event in a run. None where events go one at a time, or its fate is known.
    pub(crate) fn batch_handler(&self, record: &Record, progress: &Progress) -> Option<usize> {
        let one_at_a_time = progress.care.left > 0 || self.assignment.events == 1 || self.assignment.suspect.is_some();
        let sequence = record.sequence;
        let known = progress.fates.contains_key(&sequence)
            || progress.care.deadly.contains_key(&sequence)
            || self.assignment.verdicts.contains_key(&sequence);
        if one_at_a_time || known { None } else { self.dispatch.batch_handler(&record.topic) }
    }

    /// Before the event is handled: what waits of its key goes out, and what it cannot be together with. Answers with where the batch
    /// ends, if it does.
    pub(crate) async fn make_way(
        &self,
        connection: &mut PgConnection,
        record: &Record,
        handler: Option<usize>,
        progress: &mut Progress,
    ) -> Result<Option<i64>, Halt> {
        loop {
            let in_the_way = progress.runs.take(|run| {
                if Some(run.handler) == handler {
                    let info = EventInfo { record, group: self.partition.group, attempt: 1 };
                    return !self.dispatch.together(&EventInfo { record: &run.records[0], ..info }, &info);
                }
                record.partition_key.as_ref().is_some_and(|key| run.keys.contains(key))
            });
            let Some(run) = in_the_way else { return Ok(None) };
            if let Some(end) = self.hand_over(connection, run.records, progress).await? {
                return Ok(Some(end));
            }
        }
    }

    /// Everything that still waits goes out. Answers with the first event that could not, if any: the batch ends before it.
    pub(crate) async fn hand_over_all(
        &self,
        connection: &mut PgConnection,
        progress: &mut Progress,
    ) -> Result<Option<i64>, Halt> {
        while let Some(run) = progress.runs.take(|_| true) {
            if let Some(end) = self.hand_over(connection, run.records, progress).await? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Gives a run to its handler; where it fails, in ever smaller parts. Answers with the first event that must begin the next batch.
    async fn hand_over(
        &self,
        connection: &mut PgConnection,
        run: Vec<Arc<Record>>,
        progress: &mut Progress,
    ) -> Result<Option<i64>, Halt> {
        let mut parts = VecDeque::from([Part::Run(run)]);
        while let Some(part) = parts.pop_front() {
            let part = match part {
                Part::Run(part) => part,
                Part::Failed(record, _) if progress.is_blocked(&record) => {
                    progress.park(Parking::waiting(&record));
                    continue;
                }
                Part::Failed(record, failure) => {
                    let after_others = progress.is_after_others(record.sequence);
                    match fate(self.policy, &record, Tries::default(), failure, after_others) {
                        Fate::Parked(parking) => progress.park(parking),
                        fate => return self.end_before(record.sequence, Some(fate), &parts, progress),
                    }
                    continue;
                }
            };
            let (behind, mut part): (Vec<_>, Vec<_>) = part.into_iter().partition(|record| progress.is_blocked(record));
            for record in behind {
                progress.park(Parking::waiting(&record));
            }
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            let (first, last) = (first.sequence, last.sequence);
            if !progress.savepoint.has_room() {
                return self.end_before(first, None, &parts, progress);
            }
            if let [record] = &part[..] {
                match self.attempt(connection, record, Tries::default(), progress).await? {
                    Fate::Handled => progress.handled(last, 1),
                    Fate::Parked(parking) => progress.park(parking),
                    fate => return self.end_before(first, Some(fate), &parts, progress),
                }
                continue;
            }
            match self.attempt_run(connection, &part, progress).await? {
                RunFate::Handled => progress.handled(last, part.len()),
                RunFate::Partly(failed) => {
                    progress.handled(last, part.len() - failed.len());
                    parts = failed.into_iter().chain(parts).collect();
                }
                RunFate::Without(failed) => {
                    let (behind, rest) = part
                        .into_iter()
                        .filter(|record| !names(&failed, record))
                        .partition(|record| stands_behind(record, &failed));
                    // In the order of every key: what stands before those that failed, these, and what stands behind them.
                    parts =
                        [Part::Run(rest)].into_iter().chain(failed).chain([Part::Run(behind)]).chain(parts).collect();
                }
                RunFate::Snoozed(wait) => {
                    for record in &part {
                        let snoozed = Parking::snoozed(record, Tries::default(), wait);
                        progress.park(if progress.is_blocked(record) { Parking::waiting(record) } else { snoozed });
                    }
                }
                RunFate::Divided { unavailable } => {
                    let rest = part.split_off(if unavailable { 1 } else { part.len() / 2 });
                    parts.push_front(Part::Run(rest));
                    parts.push_front(Part::Run(part));
                }
                RunFate::Ended(unavailable) => {
                    let fate = unavailable.map_or(Fate::Conflict, Fate::Unavailable);
                    return self.end_before(first, Some(fate), &parts, progress);
                }
            }
        }
        Ok(None)
    }

    /// One call of a batch handler for several events.
    async fn attempt_run(
        &self,
        connection: &mut PgConnection,
        part: &[Arc<Record>],
        progress: &mut Progress,
    ) -> Result<RunFate, Halt> {
        let (first, last) = (part[0].sequence, part[part.len() - 1].sequence);
        self.ran.events.fetch_add(part.len(), Ordering::Relaxed);
        self.ran.last.store(last, Ordering::Relaxed);
        let after_others = progress.is_after_others(first);
        let (savepoint, mut answer) = (&mut progress.savepoint, Answer::default());
        let timeout = self.policy.handler_timeout;
        let deadline = Instant::now() + timeout;
        let work = Work {
            connection,
            savepoint,
            records: part,
            group: self.partition.group,
            attempt: 1,
            terms: Terms { partition: self.partition.number, deadline },
            answer: &mut answer,
            unprepared: self.partition.schema.is_behind_pooler(),
        };
        failpoint!(Handling);
        let Ok(result) = by(deadline, self.dispatch.deliver(work)).await else {
            return Err(BatchError::RunTimedOut { events: part.len(), timeout }.into());
        };
        failpoint!(HandlingEnded);
        let failure = match result {
            Ok(()) => {
                let failed = named(part, answer.failed);
                let overtaken = |record: &Arc<Record>| stands_behind(record, &failed) && !names(&failed, record);
                if answer.undecodable || part.iter().any(overtaken) {
                    self.undo(connection, progress).await?;
                    return Ok(RunFate::Without(failed));
                }
                match self.within(savepoint.keep(connection)).await {
                    Ok(()) if failed.is_empty() => return Ok(RunFate::Handled),
                    Ok(()) => return Ok(RunFate::Partly(failed)),
                    Err(error) => swallowed(error)?,
                }
            }
            Err(failure) => failure,
        };
        if savepoint.is_lost() {
            return Err(connection_lost().into());
        }
        let outage = |error| Unavailable { sequence: first, error, tried_before: false, alone: false };
        let fate = match failure {
            Failure::Retry(error) if after_others && is_conflict(&*error) => RunFate::Ended(None),
            // Not a matter of one event: the database itself.
            Failure::Retry(error) if is_outage(&*error) => RunFate::Ended(Some(outage(chain(&*error)))),
            Failure::Retry(_) | Failure::Reject(_) => RunFate::Divided { unavailable: false },
            // Most likely of all of them: the first one tells.
            Failure::Unavailable(_) => RunFate::Divided { unavailable: true },
            Failure::Snooze(wait) => RunFate::Snoozed(wait),
        };
        self.undo(connection, progress).await?;
        Ok(fate)
    }

    async fn undo(&self, connection: &mut PgConnection, progress: &mut Progress) -> Result<(), Halt> {
        if progress.savepoint.is_off() {
            return Err(Halt::Hidden);
        }
        Ok(self.within(progress.savepoint.undo(connection)).await?)
    }

    /// The batch ends before this event: because of its fate; or, where that is a conflict or none, because others hold its locks or have used up
    /// the savepoints. Where something beyond it is dealt with already, or something before it is not, the batch is undone and run again,
    /// with what is known by now.
    fn end_before(
        &self,
        sequence: i64,
        fate: Option<Fate>,
        parts: &VecDeque<Part>,
        progress: &mut Progress,
    ) -> Result<Option<i64>, Halt> {
        let fate = fate.filter(|fate| !matches!(fate, Fate::Conflict));
        let runs = progress.runs.0.iter().map(|run| &run.records[..]);
        let waiting = parts.iter().map(Part::records).chain(runs).flatten();
        if progress.reached > sequence || waiting.map(|record| record.sequence).any(|waiting| waiting < sequence) {
            let parked = progress.parkings.drain(..).filter(|parking| {
                parking.sequence < sequence && matches!(parking.reason, Reason::Failed | Reason::Snoozed)
            });
            let crowded = fate.is_none().then_some(sequence);
            let parked = parked.map(|parking| (parking.sequence, Fate::Parked(parking)));
            let fates = parked.chain(fate.map(|fate| (sequence, fate))).collect();
            return Err(Halt::Again { fates, crowded });
        }
        if let Some(Fate::Unavailable(unavailable)) = fate {
            progress.done.unavailable = Some(unavailable);
        }
        Ok(Some(sequence))
    }
}

/// The events of the run that the handler named, each once and in order.
fn named(part: &[Arc<Record>], failed: Vec<Failed>) -> Vec<Part> {
    let mut named = BTreeMap::new();
    for Failed { sequence, failure } in failed {
        if let Ok(at) = part.binary_search_by_key(&sequence, |record| record.sequence) {
            named.insert(sequence, Part::Failed(part[at].clone(), failure));
        }
    }
    named.into_values().collect()
}

fn names(failed: &[Part], record: &Record) -> bool {
    failed.iter().flat_map(Part::records).any(|failed| failed.sequence == record.sequence)
}

/// Whether one of its key that failed stands before it.
fn stands_behind(record: &Record, failed: &[Part]) -> bool {
    let before =
        |failed: &Arc<Record>| failed.sequence < record.sequence && failed.partition_key == record.partition_key;
    record.partition_key.is_some() && failed.iter().flat_map(Part::records).any(before)
}
