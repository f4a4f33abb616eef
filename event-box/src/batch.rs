use std::{
    collections::HashSet,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    claim::{Partition, Session},
    context::Delivery,
    cursor::{Cursor, Opening},
    deadline::within,
    failure::{Failure, chain, is_conflict},
    parked::{Parking, Reason},
    read::{Page, ReadError, Row},
    record::Record,
    router::Dispatch,
    savepoint::Savepoint,
    verdict::{Verdict, Verdicts},
};

/// How a group's batches are sized, and what becomes of events that fail.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) batch_size: usize,
    pub(crate) batch_bytes: usize,
    /// No further event starts once a batch has taken this long.
    pub(crate) batch_time: Duration,
    pub(crate) handler_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
}

impl Policy {
    /// Above the server's own limit, so that this one decides only where the server is gone.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.handler_timeout + Duration::from_secs(15)
    }
}

/// One partition's events on their way to a group's handlers, in a transaction that the caller began and will commit.
pub(crate) struct Batch<'a> {
    pub(crate) partition: Partition<'a>,
    pub(crate) dispatch: &'a dyn Dispatch,
    pub(crate) policy: &'a Policy,
    pub(crate) shutdown: &'a CancellationToken,
    /// At most this many events.
    pub(crate) limit: usize,
    /// Events that an earlier try at this batch has already judged, with their errors.
    pub(crate) verdicts: &'a Verdicts,
    /// What was run, for whoever asks after the batch has failed.
    pub(crate) ran: &'a Ran,
}

/// How many events' handlers a batch has run, and the last of them.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) events: AtomicUsize,
    pub(crate) last: AtomicI64,
}

/// What a batch came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Handlers ran without error for this many events.
    pub(crate) handled: usize,
    /// More may be waiting in this partition.
    pub(crate) more: bool,
    /// The savepoints ran out: reading more than that many events would be wasted.
    pub(crate) out_of_savepoints: bool,
    /// The other side is down; the batch ended before that event.
    pub(crate) unavailable: Option<String>,
    /// Events whose verdicts were carried out.
    pub(crate) judged: Vec<i64>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The connection is in an unknown state and must be dropped; the rest of the batch is delivered again.
    #[error("event {sequence}: {}", verdict.error)]
    Verdict { sequence: i64, verdict: Verdict },
    /// The server refused what the batch as a whole had written, at its commit at the latest: one of several events is to blame.
    #[error("the batch was refused")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for BatchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Read(ReadError::Database(error))
    }
}

/// What became of one event.
enum Fate {
    Handled,
    Parked(Parking),
    Unavailable(String),
    /// A deadlock, while locks of events before it were held: it begins the next batch, which holds none.
    Conflict,
}

/// What a batch has done so far.
struct Progress {
    started: Instant,
    savepoint: Savepoint,
    parkings: Vec<Parking>,
    /// Keys with an event before which nothing of theirs may go out.
    blocked: HashSet<String>,
    conflicted: bool,
    done: Done,
}

impl Batch<'_> {
    /// Claims, reads, delivers and advances; `None` where another worker holds the partition.
    pub(crate) async fn run(
        &self,
        connection: &mut PgConnection,
        opening: Opening,
        session: &Session,
    ) -> Result<Option<Done>, BatchError> {
        let claimed = self.within(self.partition.claim(connection)).await?;
        let Some(cursor) = claimed else { return Ok(None) };
        let mut progress = Progress {
            started: Instant::now(),
            savepoint: Savepoint::default(),
            parkings: Vec::new(),
            blocked: HashSet::new(),
            conflicted: false,
            done: Done::default(),
        };
        let mut page = self.read(connection, &cursor, session).await?;
        if page.retries_due {
            self.retry(connection, &mut progress).await?;
            page = self.read(connection, &cursor, session).await?;
        }
        let (handled, next) = self.deliver(connection, page.rows, &mut progress).await?;
        self.within(progress.savepoint.close(connection)).await?;
        self.within(self.partition.park(connection, &progress.parkings)).await?;
        let advance = cursor.advance(&page.seen, page.own_xid, opening, handled, next);
        self.within(self.partition.advance(connection, &advance)).await?;
        progress.done.more |= next.is_some() || cursor.target.is_some();
        progress.done.out_of_savepoints = !progress.savepoint.has_room();
        Ok(Some(progress.done))
    }

    async fn read(&self, connection: &mut PgConnection, cursor: &Cursor, session: &Session) -> Result<Page, ReadError> {
        let topics = self.dispatch.topics();
        let read = self.partition.read(connection, cursor, session, topics, self.limit, self.policy.batch_bytes);
        self.within(read).await
    }

    /// Parked events whose turn has come, before anything new.
    async fn retry(&self, connection: &mut PgConnection, progress: &mut Progress) -> Result<(), BatchError> {
        let topics = self.dispatch.topics();
        let due = self.partition.due(connection, topics, self.limit, self.policy.batch_bytes);
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
            if self.must_end(progress) {
                break;
            }
            let fate = match parked.ready {
                true => self.attempt(connection, &record, parked.attempts, progress).await?,
                false => {
                    progress.blocked.extend(key);
                    continue;
                }
            };
            progress.done.more = true;
            match fate {
                Fate::Handled => {
                    progress.done.handled += 1;
                    cleared.push(sequence);
                    keys.extend(key);
                }
                Fate::Parked(parking) if parking.dead => {
                    progress.parkings.push(parking);
                    keys.extend(key);
                }
                Fate::Parked(parking) => {
                    progress.parkings.push(parking);
                    progress.blocked.extend(key);
                }
                Fate::Unavailable(error) => {
                    progress.done.unavailable = Some(error);
                    break;
                }
                Fate::Conflict => {
                    progress.conflicted = true;
                    break;
                }
            }
        }
        // The read that follows asks the table which keys are blocked.
        self.within(progress.savepoint.close(connection)).await?;
        let parkings = std::mem::take(&mut progress.parkings);
        self.within(self.partition.park(connection, &parkings)).await?;
        self.within(self.partition.clear(connection, &cleared)).await?;
        self.within(self.partition.promote(connection, &keys)).await?;
        progress.blocked.clear();
        Ok(())
    }

    /// Gives the rows to the handlers, in order. Answers with the last row that is dealt with and the first that is not.
    async fn deliver(
        &self,
        connection: &mut PgConnection,
        rows: Vec<Row>,
        progress: &mut Progress,
    ) -> Result<(Option<i64>, Option<i64>), BatchError> {
        let mut handled = None;
        for (i, row) in rows.into_iter().enumerate() {
            let sequence = row.sequence;
            let ended = Ok((handled, Some(sequence)));
            if i == self.limit {
                return ended;
            }
            if !row.subscribed {
                handled = Some(sequence);
                continue;
            }
            let Some(record) = row.record else { return ended };
            if progress.done.unavailable.is_some() || progress.conflicted || self.must_end(progress) {
                return ended;
            }
            let key = record.partition_key.clone();
            let behind = row.behind || key.as_ref().is_some_and(|key| progress.blocked.contains(key));
            let fate = match behind {
                true => Fate::Parked(waiting(&record)),
                false => self.attempt(connection, &record, 0, progress).await?,
            };
            match fate {
                Fate::Handled => progress.done.handled += 1,
                Fate::Parked(parking) => {
                    if !parking.dead {
                        progress.blocked.extend(key);
                    }
                    progress.parkings.push(parking);
                }
                Fate::Unavailable(error) => {
                    progress.done.unavailable = Some(error);
                    return ended;
                }
                Fate::Conflict => return ended,
            }
            handled = Some(sequence);
        }
        Ok((handled, None))
    }

    /// A statement of ours, with the patience we have for it.
    async fn within<T, E: From<sqlx::Error>>(&self, statement: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        within(self.policy.statement_timeout(), statement).await
    }

    fn must_end(&self, progress: &Progress) -> bool {
        !progress.savepoint.has_room()
            || self.ran.events.load(Ordering::Relaxed) >= self.limit
            || self.shutdown.is_cancelled()
            || progress.started.elapsed() >= self.policy.batch_time
    }

    /// Runs the handlers of one event, and undoes what they wrote where they failed.
    async fn attempt(
        &self,
        connection: &mut PgConnection,
        record: &Record,
        attempts: u32,
        progress: &mut Progress,
    ) -> Result<Fate, BatchError> {
        if self.dispatch.topics().binary_search(&record.topic).is_err() {
            return Ok(Fate::Parked(self.no_handler(record)));
        }
        if let Some(verdict) = self.verdicts.get(&record.sequence) {
            progress.done.judged.push(record.sequence);
            return Ok(Fate::Parked(self.failed(record, attempts, verdict.error.clone(), verdict.rejected)));
        }
        self.ran.events.fetch_add(1, Ordering::Relaxed);
        self.ran.last.store(record.sequence, Ordering::Relaxed);
        let savepoint = &mut progress.savepoint;
        let delivery = Delivery {
            connection,
            savepoint,
            record,
            group: self.partition.group,
            attempt: attempts.saturating_add(1),
        };
        let timeout = self.policy.handler_timeout;
        let Ok(result) = tokio::time::timeout(timeout, self.dispatch.deliver(delivery)).await else {
            return Err(BatchError::Verdict { sequence: record.sequence, verdict: Verdict::timed_out(timeout) });
        };
        let judged = |error: sqlx::Error| match Verdict::on_ended_transaction(&error) {
            Some(verdict) => BatchError::Verdict { sequence: record.sequence, verdict },
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
        self.within(savepoint.undo(connection)).await.map_err(judged)?;
        Ok(match failure {
            Failure::Retry(error) if progress.done.handled > 0 && is_conflict(&*error) => Fate::Conflict,
            Failure::Retry(error) => Fate::Parked(self.failed(record, attempts, chain(&*error), false)),
            Failure::Reject(error) => Fate::Parked(self.failed(record, attempts, chain(&*error), true)),
            Failure::Unavailable(error) => Fate::Unavailable(chain(&*error)),
            Failure::Snooze(wait) => {
                Fate::Parked(Parking { reason: Reason::Snoozed, attempts, due_in: Some(wait), ..waiting(record) })
            }
        })
    }

    fn failed(&self, record: &Record, attempts: u32, error: String, rejected: bool) -> Parking {
        let attempts = attempts.saturating_add(1);
        let dead = rejected || attempts >= self.policy.max_attempts;
        let due_in = (!dead).then(|| self.policy.backoff.after(attempts));
        let (group, topic, sequence, id) = (self.partition.group, &record.topic, record.sequence, record.id);
        match due_in {
            Some(wait) => {
                tracing::warn!(group, topic, sequence, %id, attempts, ?wait, error, "event failed, it is tried again");
            }
            None => {
                tracing::error!(group, topic, sequence, %id, attempts, error, "event failed for good, it is a dead letter")
            }
        }
        Parking { reason: Reason::Failed, attempts, error: Some(error), due_in, dead, ..waiting(record) }
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
        Parking { reason: Reason::NoHandler, ..waiting(record) }
    }
}

fn waiting(record: &Record) -> Parking {
    Parking {
        sequence: record.sequence,
        topic: record.topic.clone(),
        partition_key: record.partition_key.clone(),
        reason: Reason::Waiting,
        attempts: 0,
        deaths: 0,
        error: None,
        due_in: None,
        dead: false,
        holds_key: false,
    }
}

/// A handler that answered `Ok` though one of its statements had failed: the transaction is aborted, nothing after that was written.
fn swallowed(error: sqlx::Error) -> Result<Failure, sqlx::Error> {
    let aborted = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "25P02");
    if !aborted {
        return Err(error);
    }
    Ok(Failure::Retry(
        "the handler returned Ok after a statement of its had failed: return that error, or use a savepoint of its own"
            .into(),
    ))
}

#[cfg(test)]
mod tests;
