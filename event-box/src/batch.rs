use std::{
    sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Fate,
    claim::{Claim, Partition},
    cursor::{Advance, Cursor, Opening},
    deadline::within,
    failpoint::failpoint,
    failure::is_in_failed_transaction,
    mode::Mode,
    mutation,
    parked::Parking,
    policy::Policy,
    process::Process,
    progress::Progress,
    read::{Page, ReadError},
    router::Dispatch,
    verdict::{Verdict, Verdicts},
};

/// One partition's events on their way to a group's handlers, in a transaction that the caller began and will commit.
pub(crate) struct Batch<'a> {
    pub(crate) partition: Partition<'a>,
    /// Who finds out which event kills; `None` where a rollback is no sign of a death.
    pub(crate) watch: Option<Watch<'a>>,
    pub(crate) dispatch: &'a dyn Dispatch,
    pub(crate) policy: &'a Policy,
    pub(crate) shutdown: &'a CancellationToken,
    pub(crate) assignment: &'a Assignment,
    /// What was run, for whoever asks after the batch has failed.
    pub(crate) ran: &'a Ran,
}

/// What it takes to know which event a process died of.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub(crate) process: &'a Process,
    /// What is begun is recorded outside of the batch's transaction.
    pub(crate) pool: &'a PgPool,
}

/// What a batch is to do.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    /// At most this many rows of the log.
    pub(crate) rows: usize,
    /// At most this many events are handed to their handlers.
    pub(crate) events: usize,
    /// Events that an earlier try at this batch has already judged.
    pub(crate) verdicts: Verdicts,
    /// The event that has long called the other side unavailable: where it does so again and one of another key goes through, it was the
    /// event's own fault.
    pub(crate) suspect: Option<i64>,
}

/// How many events' handlers a batch has run, the last of them, and who serves its session: 0 until the claim.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) backend: AtomicI32,
    pub(crate) events: AtomicUsize,
    pub(crate) last: AtomicI64,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Handlers ran without error for this many events.
    pub(crate) handled: usize,
    /// More may be waiting in this partition.
    pub(crate) more: bool,
    /// The savepoints ran out: reading more than that many events would be wasted.
    pub(crate) out_of_savepoints: bool,
    /// Handlers of a concurrent group were still to be called when the batch's time was up.
    pub(crate) out_of_time: bool,
    /// Events still go one a transaction, after a death.
    pub(crate) careful: bool,
    /// The other side is down; the batch ended before that event.
    pub(crate) unavailable: Option<Unavailable>,
    /// Events whose verdicts were carried out.
    pub(crate) judged: Vec<i64>,
    /// It ended before an event that was a deadlock's victim.
    pub(crate) conflict: bool,
    /// Events were parked, for whatever reason.
    pub(crate) parked: bool,
    /// Events that failed, as they are parked now.
    pub(crate) failures: Vec<Parking>,
    /// The transaction had an id before it claimed: the cursor got no new mark.
    pub(crate) bound: bool,
    /// It is not known yet whether the process that began an event here has died.
    pub(crate) waits: bool,
    /// How long handlers took.
    pub(crate) handling: Duration,
}

/// An event whose handler could not reach what it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable {
    pub(crate) sequence: i64,
    pub(crate) error: String,
    /// It has failed before.
    pub(crate) tried_before: bool,
    /// Beside it no other event went through or was told the same.
    pub(crate) alone: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The connection is in an unknown state and must be dropped; the rest of the batch is delivered again.
    #[error("event {sequence}: {}", verdict.error)]
    Verdict { sequence: i64, verdict: Verdict },
    /// A batch handler took too long for several events; the connection must be dropped.
    #[error("the batch handler took longer than its time-out of {timeout:?} for {events} events")]
    RunTimedOut { events: usize, timeout: Duration },
    /// The server refused what the batch as a whole had written, at its commit at the latest: one of several events is to blame.
    #[error("the batch was refused")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for BatchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Read(ReadError::Database(error))
    }
}

/// Why a pass over the batch's events ends without a result.
pub(crate) enum Halt {
    Failed(BatchError),
    /// Events failed, and only undoing the batch undoes what was written: again, with their fates known.
    Again {
        fates: Vec<(i64, Fate)>,
        /// Others had used up the savepoints, or held the locks, that this event's run needs.
        crowded: Option<i64>,
    },
    /// The transaction is aborted and nobody said so: again, with savepoints that find the culprit.
    Hidden,
}

impl<E: Into<BatchError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The batch as a whole can be undone up to here: its claim stays.
const UNDO: &str = "rollback to savepoint event_box_batch";

impl Batch<'_> {
    /// Claims, reads, delivers and advances; `None` where another worker holds the partition.
    pub(crate) async fn run(&self, connection: &mut PgConnection) -> Result<Option<Done>, BatchError> {
        let Some(claim) = self.within(self.partition.claim(connection)).await? else { return Ok(None) };
        self.ran.backend.store(claim.backend, Ordering::Relaxed);
        let earlier = self.note(&claim);
        failpoint!(Claimed);
        let care = self.care(connection, &claim, earlier).await?;
        if care.waits {
            self.within(self.partition.advance(connection, &Advance::Nothing, care.left)).await?;
            return Ok(Some(Done { waits: true, careful: true, bound: claim.opening.bound, ..Done::default() }));
        }
        let mut progress = Progress::new(Instant::now(), care, self.policy.mode == Mode::AllOrNothing);
        let undoable =
            progress.savepoint.is_off() || self.assignment.suspect.is_some() || self.dispatch.has_batch_handlers();
        if undoable {
            self.within(execute(connection, "savepoint event_box_batch")).await?;
        }
        let mut advance = loop {
            let ended = match self.pass(connection, &claim, &mut progress).await {
                Ok(advance) if undoable => self.keep(connection, advance, &mut progress).await,
                ended => ended,
            };
            let (fates, crowded, savepoints) = match ended {
                Ok(advance) => break advance,
                Err(Halt::Failed(BatchError::Read(ReadError::Database(error))))
                    if progress.savepoint.is_off() && is_in_failed_transaction(&error) =>
                {
                    (Vec::new(), None, true)
                }
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Again { fates, crowded }) => (fates, crowded, false),
                Err(Halt::Hidden) => (Vec::new(), None, true),
            };
            self.within(execute(connection, UNDO)).await?;
            failpoint!(Undone);
            progress = progress.again(fates, crowded, savepoints);
        };
        let done = &mut progress.done;
        if let Some(doubt) = progress.doubted.take().filter(|_| done.handled == 0) {
            // Nothing else went through: it may be an outage after all.
            // Those beside it that failed otherwise say nothing of the other side.
            let alone = done.unavailable.is_none();
            let unavailable = Some(Unavailable { alone, ..doubt.unavailable });
            *done = Done { unavailable, more: true, ..Done::default() };
            advance = Advance::Nothing;
        }
        done.more |= claim.cursor.target.is_some() && !progress.paused;
        done.out_of_savepoints = !progress.savepoint.has_room();
        if let Some(watch) = self.watch.filter(|_| progress.care.has_starts) {
            self.within(self.partition.end(connection, watch.process.id, &done.judged)).await?;
        }
        let careful = progress.careful();
        progress.done.careful = careful > 0;
        progress.done.bound = claim.opening.bound;
        self.within(self.partition.advance(connection, &advance, careful)).await?;
        failpoint!(Advanced);
        Ok(Some(progress.done))
    }

    /// Everything between the claim and the advance, once.
    async fn pass(
        &self,
        connection: &mut PgConnection,
        claim: &Claim,
        progress: &mut Progress,
    ) -> Result<Advance, Halt> {
        self.ran.events.store(0, Ordering::Relaxed);
        let limit = progress.care.rows(self.assignment.rows);
        let mut page = self.read(connection, claim, limit).await?;
        if page.mode != self.policy.mode.text() {
            return Err(ReadError::Mode { stored: page.mode }.into());
        }
        if page.retries_due && !page.paused {
            self.retry(connection, limit, progress).await?;
            page = self.read(connection, claim, limit).await?;
        }
        if page.paused {
            progress.paused = true;
            return Ok(Advance::Nothing);
        }
        self.handle(connection, &claim.cursor, page, claim.opening, limit, progress).await
    }

    /// Everything between the read and the advance.
    pub(crate) async fn handle(
        &self,
        connection: &mut PgConnection,
        cursor: &Cursor,
        page: Page,
        opening: Opening,
        limit: usize,
        progress: &mut Progress,
    ) -> Result<Advance, Halt> {
        let last_read = page.rows.last().map(|row| row.sequence);
        let began = Instant::now();
        #[cfg(feature = "_mutations")]
        let advanced = self.advances_first(connection, cursor, &page, opening).await?;
        let (mut handled, mut next) = self.deliver(connection, page.rows, limit, progress).await?;
        if mutation::is("early-end-at-the-last-read") {
            (handled, next) = (last_read, None);
        }
        self.ask_again(connection, progress).await?;
        progress.done.handling += began.elapsed();
        self.within(progress.savepoint.close(connection)).await?;
        self.park(connection, progress).await?;
        failpoint!(Handled);
        progress.done.more |= next.is_some();
        progress.exhausted = next.is_none() && !progress.closed;
        #[cfg(feature = "_mutations")]
        if advanced {
            return Ok(Advance::Nothing);
        }
        Ok(cursor.advance(&page.seen, page.own_xid, opening, handled, next))
    }

    async fn read(&self, connection: &mut PgConnection, claim: &Claim, limit: usize) -> Result<Page, ReadError> {
        let topics = self.dispatch.topics();
        let read = self.partition.read(connection, claim, topics, limit, self.policy.batch_bytes);
        let page = self.within(read).await?;
        failpoint!(Read);
        Ok(page)
    }

    /// Back to the level of the claim, where the cursor is advanced.
    async fn keep(
        &self,
        connection: &mut PgConnection,
        advance: Advance,
        progress: &mut Progress,
    ) -> Result<Advance, Halt> {
        let convicted = progress.doubted.is_none() || progress.done.handled > 0;
        let sql = if convicted {
            "release savepoint event_box_batch"
        } else {
            "rollback to savepoint event_box_batch; release savepoint event_box_batch"
        };
        self.within(execute(connection, sql)).await?;
        Ok(advance)
    }

    /// A statement of ours, with the patience we have for it.
    pub(crate) async fn within<T, E: From<sqlx::Error>>(
        &self,
        statement: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        within(self.policy.statement_timeout(), statement).await
    }
}

async fn execute(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
