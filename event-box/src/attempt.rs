use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{
    batch::{Batch, BatchError, Halt, Unavailable},
    deadline::by,
    error::BoxError,
    failpoint::failpoint,
    failure::{Failure, chain, is_conflict, is_in_failed_transaction, is_outage},
    parked::{Parking, Tries},
    policy::Policy,
    progress::{Doubt, Progress},
    record::Record,
    verdict::{Charge, Verdict},
    work::{Answer, Terms, Work},
};

/// What became of one event.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Handled,
    Parked(Parking),
    Unavailable(Unavailable),
    /// A deadlock, while locks of events before it were held: it begins the next batch, which holds none.
    Conflict,
}

impl Batch<'_> {
    /// Runs the handlers of one event, and undoes what they wrote where they failed.
    pub(crate) async fn attempt(
        &self,
        connection: &mut PgConnection,
        record: &Arc<Record>,
        tries: Tries,
        progress: &mut Progress,
    ) -> Result<Fate, Halt> {
        let sequence = record.sequence;
        if self.dispatch.topics().binary_search(&record.topic).is_err() {
            let group = self.partition.group;
            tracing::debug!(
                group,
                topic = record.topic,
                sequence,
                "there is no handler for this topic here, its event waits for a process with one"
            );
            return Ok(Fate::Parked(Parking::no_handler(record)));
        }
        if let Some(fate) = progress.fates.get(&sequence) {
            progress.recalled += 1;
            return Ok(self.doubt(record, tries, fate.clone(), progress));
        }
        if let Some(verdict) = progress.care.deadly.get(&sequence).or_else(|| self.assignment.verdicts.get(&sequence)) {
            progress.done.judged.push(sequence);
            return Ok(Fate::Parked(self.policy.judge(record, tries, verdict)));
        }
        if let Some(watch) = self.watch.filter(|_| progress.care.left > 0 || tries.deaths > 0) {
            watch.process.begins(self.partition.number);
            self.within(self.partition.begin(watch.pool, sequence, watch.process.id)).await?;
            progress.care.has_starts = true;
            failpoint!(Started);
        }
        self.ran.events.fetch_add(1, Ordering::Relaxed);
        self.ran.last.store(sequence, Ordering::Relaxed);
        let after_others = progress.is_after_others(sequence);
        let (savepoint, mut answer) = (&mut progress.savepoint, Answer::default());
        let timeout = self.policy.handler_timeout;
        let deadline = Instant::now() + timeout;
        let work = Work {
            connection,
            savepoint,
            records: std::slice::from_ref(record),
            group: self.partition.group,
            attempt: tries.attempts.saturating_add(1),
            terms: Terms { partition: self.partition.number, deadline },
            answer: &mut answer,
            unprepared: self.partition.schema.is_behind_pooler(),
        };
        failpoint!(Handling);
        let Ok(result) = by(deadline, self.dispatch.deliver(work)).await else {
            return Err(BatchError::Verdict { sequence, verdict: Verdict::timed_out(timeout) }.into());
        };
        failpoint!(HandlingEnded);
        let judged = |error: sqlx::Error| match Verdict::on_ended_transaction(&error) {
            Some(verdict) => BatchError::Verdict { sequence, verdict },
            None => error.into(),
        };
        let result = result.and_then(|()| answer.failed.pop().map_or(Ok(()), |failed| Err(failed.failure)));
        let failure = match result {
            Ok(()) if !savepoint.is_touched() => return Ok(Fate::Handled),
            Ok(()) => match self.within(savepoint.keep(connection)).await {
                Ok(()) => return Ok(Fate::Handled),
                Err(error) => swallowed(error).map_err(judged)?,
            },
            Err(failure) => failure,
        };
        if savepoint.is_lost() {
            return Err(connection_lost().into());
        }
        // Without savepoints, an earlier event's failed statement that its handler did not tell of: whatever this one makes of it.
        if let Failure::Retry(error) | Failure::Reject(error) | Failure::Unavailable(error) = &failure
            && savepoint.is_off()
            && is_in_failed_transaction(&**error)
        {
            return Err(Halt::Hidden);
        }
        let fate = fate(self.policy, record, tries, failure, after_others);
        if savepoint.cannot_undo() {
            return Err(Halt::Again { fates: vec![(sequence, fate)], crowded: None });
        }
        self.within(savepoint.undo(connection)).await.map_err(judged)?;
        Ok(self.doubt(record, tries, fate, progress))
    }

    /// The suspect of an outage is parked for now, so that one of another key can be tried.
    fn doubt(&self, record: &Arc<Record>, tries: Tries, fate: Fate, progress: &mut Progress) -> Fate {
        let Fate::Unavailable(unavailable) = fate else { return fate };
        if self.assignment.suspect != Some(record.sequence) {
            return Fate::Unavailable(unavailable);
        }
        let judged = self.alone_unavailable(record, tries, &unavailable);
        if progress.doubted.is_some() {
            return Fate::Parked(judged);
        }
        progress.doubted = Some(Doubt { record: record.clone(), tries, unavailable });
        // It is asked again: until then its key waits, whatever becomes of it.
        Fate::Parked(Parking { dead: false, holds_key: false, due_in: Some(Duration::ZERO), ..judged })
    }

    fn alone_unavailable(&self, record: &Record, tries: Tries, unavailable: &Unavailable) -> Parking {
        self.policy.judge(record, tries, &Verdict::alone_unavailable(&unavailable.error))
    }

    /// Another event has gone through: the suspect is asked once more, because what it depends on may just have come back.
    pub(crate) async fn ask_again(&self, connection: &mut PgConnection, progress: &mut Progress) -> Result<(), Halt> {
        let doubted = progress.doubted.clone().filter(|_| progress.done.handled > 0);
        let Some(Doubt { record, tries, unavailable }) = doubted else { return Ok(()) };
        let (sequence, key) = (record.sequence, record.partition_key.clone());
        if !std::mem::replace(&mut progress.asked_again, true) {
            // What an earlier pass found out was its first answer.
            progress.fates.remove(&sequence);
        }
        let fate = self.attempt(connection, &record, tries, progress).await?;
        progress.parkings.retain(|parking| parking.sequence != sequence);
        progress.done.failures.retain(|parking| parking.sequence != sequence);
        let goes_on = match fate {
            Fate::Handled => {
                progress.done.handled += 1;
                true
            }
            Fate::Parked(parking) => {
                let goes_on = !parking.blocks();
                progress.parkings.push(parking);
                goes_on
            }
            Fate::Unavailable(_) | Fate::Conflict => {
                let parking = self.alone_unavailable(&record, tries, &unavailable);
                let goes_on = !parking.blocks();
                progress.parkings.push(parking);
                goes_on
            }
        };
        let handled = !progress.parkings.iter().any(|parking| parking.sequence == sequence);
        if goes_on {
            // Those behind it are due, those of this batch too.
            self.within(progress.savepoint.close(connection)).await?;
            self.park(connection, progress).await?;
            if handled {
                self.within(self.partition.clear(connection, &[sequence])).await?;
            }
            self.within(self.partition.promote(connection, key.as_slice())).await?;
        }
        Ok(())
    }
}

/// What becomes of an event whose handler failed.
pub(crate) fn fate(policy: &Policy, record: &Record, tries: Tries, failure: Failure, after_others: bool) -> Fate {
    let unavailable = |error| {
        let (sequence, tried_before) = (record.sequence, tries.attempts > 0);
        Fate::Unavailable(Unavailable { sequence, error, tried_before, alone: false })
    };
    let judge = |error: BoxError, charge| Fate::Parked(policy.judge(record, tries, &verdict(&*error, charge)));
    match failure {
        Failure::Retry(error) if after_others && is_conflict(&*error) => Fate::Conflict,
        Failure::Retry(error) if is_outage(&*error) => unavailable(chain(&*error)),
        Failure::Retry(error) => judge(error, Charge::Attempt),
        Failure::Reject(error) => judge(error, Charge::Rejection),
        Failure::Unavailable(error) => unavailable(chain(&*error)),
        Failure::Snooze(wait) => Fate::Parked(Parking::snoozed(record, tries, wait)),
    }
}

fn verdict(error: &(dyn std::error::Error + 'static), charge: Charge) -> Verdict {
    Verdict { error: chain(error), charge, left_running: false }
}

/// The event is not to blame for what it was told.
pub(crate) fn connection_lost() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())
}

/// A handler that answered `Ok` though one of its statements had failed: the transaction is aborted, nothing after that was written.
pub(crate) fn swallowed(error: sqlx::Error) -> Result<Failure, sqlx::Error> {
    if !is_in_failed_transaction(&error) {
        return Err(error);
    }
    Ok(Failure::Retry(
        "the handler returned Ok after a statement of its had failed: return that error, or use a savepoint of its own"
            .into(),
    ))
}
