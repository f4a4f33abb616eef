use std::{sync::atomic::Ordering, time::Duration};

use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{
    batch::{Batch, BatchError, Halt, Unavailable},
    context::Delivery,
    failure::{Failure, chain, is_conflict, is_in_failed_transaction, is_outage},
    parked::{Parking, Reason, Tries},
    progress::{Doubt, Progress},
    record::Record,
    verdict::{Charge, Verdict},
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
        record: &Record,
        tries: Tries,
        progress: &mut Progress,
    ) -> Result<Fate, Halt> {
        let sequence = record.sequence;
        if self.dispatch.topics().binary_search(&record.topic).is_err() {
            return Ok(Fate::Parked(self.no_handler(record)));
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
        }
        self.ran.events.fetch_add(1, Ordering::Relaxed);
        self.ran.last.store(sequence, Ordering::Relaxed);
        let savepoint = &mut progress.savepoint;
        let timeout = self.policy.handler_timeout;
        let deadline = Instant::now() + timeout;
        let delivery = Delivery {
            connection,
            savepoint,
            record,
            group: self.partition.group,
            attempt: tries.attempts.saturating_add(1),
            partition: self.partition.number,
            deadline,
        };
        let Ok(result) = tokio::time::timeout_at(deadline, self.dispatch.deliver(delivery)).await else {
            return Err(BatchError::Verdict { sequence, verdict: Verdict::timed_out(timeout) }.into());
        };
        let judged = |error: sqlx::Error| match Verdict::on_ended_transaction(&error) {
            Some(verdict) => BatchError::Verdict { sequence, verdict },
            None => error.into(),
        };
        let failure = match result {
            Ok(()) => match self.within(savepoint.keep(connection)).await {
                Ok(()) => return Ok(Fate::Handled),
                Err(error) => swallowed(error).map_err(judged)?,
            },
            Err(failure) => failure,
        };
        if savepoint.is_lost() {
            // The event is not to blame for what it was told.
            return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()).into());
        }
        let unavailable =
            |error| Fate::Unavailable(Unavailable { sequence, error, tried_before: tries.attempts > 0, alone: false });
        let fate = match failure {
            // Without savepoints, an earlier event's failed statement that its handler did not tell of: whatever this one makes of it.
            Failure::Retry(error) | Failure::Reject(error) | Failure::Unavailable(error)
                if savepoint.is_off() && is_in_failed_transaction(&*error) =>
            {
                return Err(Halt::Hidden);
            }
            Failure::Retry(error) if progress.done.handled > 0 && is_conflict(&*error) => Fate::Conflict,
            Failure::Retry(error) if is_outage(&*error) => unavailable(chain(&*error)),
            Failure::Retry(error) => Fate::Parked(self.policy.judge(record, tries, &verdict(&*error, Charge::Attempt))),
            Failure::Reject(error) => {
                Fate::Parked(self.policy.judge(record, tries, &verdict(&*error, Charge::Rejection)))
            }
            Failure::Unavailable(error) => unavailable(chain(&*error)),
            Failure::Snooze(wait) => Fate::Parked(Parking {
                reason: Reason::Snoozed,
                attempts: tries.attempts,
                deaths: tries.deaths,
                due_in: Some(wait),
                ..Parking::waiting(record)
            }),
        };
        if savepoint.cannot_undo() {
            return Err(Halt::Again { sequence, fate });
        }
        self.within(savepoint.undo(connection)).await.map_err(judged)?;
        Ok(self.doubt(record, tries, fate, progress))
    }

    /// The suspect of an outage is parked for now, so that one of another key can be tried.
    fn doubt(&self, record: &Record, tries: Tries, fate: Fate, progress: &mut Progress) -> Fate {
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

    /// Another process of the group may know the topic: during a rolling deployment, the newer one.
    fn no_handler(&self, record: &Record) -> Parking {
        let (group, topic, sequence) = (self.partition.group, &record.topic, record.sequence);
        tracing::debug!(
            group,
            topic,
            sequence,
            "there is no handler for this topic here, its event waits for a process with one"
        );
        Parking { reason: Reason::NoHandler, ..Parking::waiting(record) }
    }
}

fn verdict(error: &(dyn std::error::Error + 'static), charge: Charge) -> Verdict {
    Verdict { error: chain(error), charge }
}

/// A handler that answered `Ok` though one of its statements had failed: the transaction is aborted, nothing after that was written.
fn swallowed(error: sqlx::Error) -> Result<Failure, sqlx::Error> {
    if !is_in_failed_transaction(&error) {
        return Err(error);
    }
    Ok(Failure::Retry(
        "the handler returned Ok after a statement of its had failed: return that error, or use a savepoint of its own"
            .into(),
    ))
}
