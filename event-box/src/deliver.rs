use std::sync::atomic::Ordering;

use sqlx::PgConnection;

use crate::{
    attempt::Fate,
    batch::{Batch, BatchError, Halt},
    parked::{Parking, Reason, Tries},
    progress::Progress,
    read::Row,
};

impl Batch<'_> {
    /// Parked events whose turn has come, before anything new.
    pub(crate) async fn retry(
        &self,
        connection: &mut PgConnection,
        limit: usize,
        progress: &mut Progress,
    ) -> Result<(), Halt> {
        let due = self.partition.due(connection, self.dispatch.topics(), limit, self.policy.batch_bytes);
        let due = self.within(due).await?;
        let (mut cleared, mut keys) = (Vec::new(), Vec::new());
        for parked in due {
            let (sequence, key) = (parked.sequence, parked.partition_key.clone());
            let Some(record) = parked.record else {
                let group = self.partition.group;
                tracing::error!(
                    group,
                    sequence,
                    "a parked event is no longer in the log: it was deleted by hand, and is forgotten"
                );
                cleared.push(sequence);
                keys.extend(key);
                continue;
            };
            if key.as_ref().is_some_and(|key| progress.blocked.contains(key)) {
                continue;
            }
            // What killed a process goes alone.
            let alone = parked.tries.deaths > 0;
            if self.must_end(progress) || (alone && self.ran.events.load(Ordering::Relaxed) > 0) {
                (progress.closed, progress.done.more) = (true, true);
                break;
            }
            if !parked.ready {
                progress.blocked.extend(key);
                continue;
            }
            let fate = self.attempt(connection, &record, parked.tries, progress).await?;
            progress.closed |= alone;
            progress.done.more = true;
            progress.passed += 1;
            match fate {
                Fate::Handled => {
                    progress.done.handled += 1;
                    cleared.push(sequence);
                    keys.extend(key);
                }
                Fate::Parked(parking) => {
                    if parking.blocks() {
                        progress.blocked.extend(key);
                    } else {
                        keys.extend(key);
                    }
                    progress.parkings.push(parking);
                }
                Fate::Unavailable(unavailable) => {
                    progress.done.unavailable = Some(unavailable);
                    progress.closed = true;
                    break;
                }
                Fate::Conflict => {
                    progress.closed = true;
                    break;
                }
            }
        }
        // The read that follows asks the table which keys are blocked.
        self.within(progress.savepoint.close(connection)).await?;
        self.park(connection, progress).await?;
        self.within(self.partition.clear(connection, &cleared)).await?;
        self.within(self.partition.promote(connection, &keys)).await?;
        progress.blocked.clear();
        Ok(())
    }

    /// Gives the rows to the handlers, in order. Answers with the last row that is dealt with and the first that is not.
    pub(crate) async fn deliver(
        &self,
        connection: &mut PgConnection,
        rows: Vec<Row>,
        limit: usize,
        progress: &mut Progress,
    ) -> Result<(Option<i64>, Option<i64>), Halt> {
        let (mut passed, mut next) = (Vec::new(), None);
        for (i, row) in rows.into_iter().enumerate() {
            let sequence = row.sequence;
            if row.subscribed || i == limit {
                let Some(record) = row.record.filter(|_| i < limit && !self.must_end(progress)) else {
                    next = Some(sequence);
                    break;
                };
                // One that waits for what is parked joins no run: it would be parked before events of its key that the run holds.
                let behind = row.behind || progress.is_blocked(&record);
                let handler = if behind { None } else { self.batch_handler(&record, progress) };
                progress.for_a_run_alone |= progress.crowded == Some(sequence) && passed.is_empty();
                let crowded = progress.crowded == Some(sequence) && !progress.for_a_run_alone;
                let not_alone = handler.is_none() || progress.runs.are_of_another(handler);
                if crowded || (progress.for_a_run_alone && progress.runs.len() > 0 && not_alone) {
                    next = Some(sequence);
                    break;
                }
                let runs = progress.runs.len();
                if let Some(end) = self.make_way(connection, &record, handler, progress).await? {
                    return Ok(ended(&passed, end));
                }
                // What went out may have taken the last savepoint.
                if progress.runs.len() < runs && self.must_end(progress) {
                    next = Some(sequence);
                    break;
                }
                if row.behind || progress.is_blocked(&record) {
                    progress.park(Parking::waiting(&record));
                } else if let Some(handler) = handler {
                    progress.runs.push(handler, record);
                } else {
                    match self.attempt(connection, &record, Tries::default(), progress).await? {
                        Fate::Handled => progress.handled(sequence, 1),
                        Fate::Parked(parking) => progress.park(parking),
                        Fate::Unavailable(unavailable) => {
                            (progress.done.unavailable, next) = (Some(unavailable), Some(sequence));
                            break;
                        }
                        Fate::Conflict => {
                            (progress.done.conflict, next) = (true, Some(sequence));
                            break;
                        }
                    }
                }
            }
            passed.push(sequence);
            progress.passed += 1;
        }
        if let Some(end) = self.hand_over_all(connection, progress).await? {
            return Ok(ended(&passed, end));
        }
        Ok((passed.last().copied(), next))
    }

    /// Writes what is to be parked so far.
    pub(crate) async fn park(&self, connection: &mut PgConnection, progress: &mut Progress) -> Result<(), BatchError> {
        let parkings = std::mem::take(&mut progress.parkings);
        self.within(self.partition.park(connection, &parkings)).await?;
        progress.done.parked |= !parkings.is_empty();
        progress.done.failures.extend(parkings.into_iter().filter(|parking| parking.reason == Reason::Failed));
        Ok(())
    }

    fn must_end(&self, progress: &Progress) -> bool {
        let limit = if progress.care.left > 0 { 1 } else { self.assignment.events };
        // A pass that goes over known ground again gets through it.
        let late = progress.recalled >= progress.fates.len() && progress.started.elapsed() >= self.policy.batch_time;
        progress.closed
            || late
            || progress.savepoint.room() <= progress.runs.len()
            || self.ran.events.load(Ordering::Relaxed) + progress.recalled + progress.runs.events() >= limit
            || self.shutdown.is_cancelled()
            || (progress.doubted.is_some() && progress.done.handled > 0)
    }
}

/// The last row that is dealt with where the batch ends before `next`, and that.
fn ended(passed: &[i64], next: i64) -> (Option<i64>, Option<i64>) {
    (passed.iter().copied().take_while(|sequence| *sequence < next).last(), Some(next))
}
