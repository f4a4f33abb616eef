use std::{sync::atomic::Ordering, time::Duration};

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr};
use tokio::time::Instant;

use crate::{
    batch::{Assignment, BatchError, Done, Halt, Ran},
    care::Care,
    claim::{Claim, Partition, Partitions},
    cursor::Advance,
    deadline::within,
    failpoint::failpoint,
    held::{Held, Kept},
    progress::Progress,
    read::{Page, ReadError},
    round::Finish,
    savepoint::Savepoint,
    verdict::Verdicts,
    worker::{Answer, Shared, blame},
};

/// So many rows of each partition: where there are more, a batch of its own is worth its transaction.
pub(crate) const ROWS: usize = 20;
/// No further partition begins after this long: what was handled waits for its commit, and what waits here might run elsewhere.
const TIME: Duration = Duration::from_millis(20);

/// Partitions with a few events each, one after the other in one transaction: a transaction of its own costs each more than its events do.
///
/// Whatever needs care is left to a batch of its own: retries, deaths, events that have been judged. Where one of the events fails the
/// transaction, all of it is delivered again, each partition by itself.
impl Shared {
    pub(crate) async fn sweep(
        &self,
        kept: Option<Kept>,
        mut numbers: Vec<i16>,
    ) -> (Vec<i16>, Answer<Result<Vec<(i16, Finish)>, BatchError>>) {
        let mut held = match self.connect(kept).await {
            Ok(held) => held,
            Err(error) => return (numbers, (None, Err(error.into()))),
        };
        let mut sweep = Sweep::default();
        match self.run_sweep(&mut held, &numbers, &mut sweep).await {
            Ok(finished) => {
                self.committed(&finished).await;
                (numbers, (Some(held.keep()), Ok(finished)))
            }
            Err(error) => {
                drop(held);
                for partition in &numbers {
                    self.process.lived(*partition);
                }
                let error = blame(error, &sweep.ran);
                if matches!(&error, BatchError::Verdict { verdict, .. } if verdict.left_running) {
                    self.terminate(&sweep.ran).await;
                }
                if matches!(error, BatchError::Refused(_)) {
                    // One of them is to blame: each tells by itself.
                    let alone = numbers.iter().map(|number| (*number, Finish::Alone)).collect();
                    return (numbers, (None, Ok(alone)));
                }
                // It concerns the connection, or the partition in hand: that one first.
                if let Some(at) = numbers.iter().position(|number| Some(*number) == sweep.in_hand) {
                    numbers.swap(0, at);
                }
                (numbers, (None, Err(error)))
            }
        }
    }

    async fn run_sweep(
        &self,
        held: &mut Held,
        numbers: &[i16],
        sweep: &mut Sweep,
    ) -> Result<Vec<(i16, Finish)>, BatchError> {
        let (patience, started) = (self.policy.statement_timeout(), Instant::now());
        let all = Partitions { schema: self.log.schema(), group: &self.group, numbers };
        let begin = AssertSqlSafe(self.begin(self.policy.handler_timeout + Duration::from_secs(15))).into_sql_str();
        let mut tx = within(patience, held.connection()?.begin_with(begin)).await?;
        failpoint!(Begun);
        let claims = within(patience, all.claim(&mut tx)).await?;
        if let Some(claim) = claims.first() {
            sweep.ran.backend.store(claim.backend, Ordering::Relaxed);
        }
        failpoint!(Claimed);
        let is_claimed = |number: &i16| claims.iter().any(|claim| claim.partition == *number);
        let busy = numbers.iter().filter(|number| !is_claimed(number));
        let mut finished: Vec<_> = busy.map(|number| (*number, Finish::Busy)).collect();
        let assignment = Assignment { rows: ROWS, events: usize::MAX, verdicts: Verdicts::new(), suspect: None };
        let batch = |number| self.as_batch(self.partition(number), &assignment, &sweep.ran);
        let mut healthy = Vec::with_capacity(claims.len());
        let noted: Vec<_> = claims.iter().map(|claim| batch(claim.partition).note(claim)).collect();
        for (claim, earlier) in claims.into_iter().zip(noted) {
            let care = batch(claim.partition).care(&mut tx, &claim, earlier).await?;
            if care.is_needed() {
                let partition = self.partition(claim.partition);
                within(patience, partition.advance(&mut tx, &Advance::Nothing, care.left)).await?;
                finished.push((claim.partition, Finish::Alone));
            } else {
                healthy.push(claim);
            }
        }
        let pages = match healthy.is_empty() {
            true => Vec::new(),
            false => {
                let numbers: Vec<_> = healthy.iter().map(|claim| claim.partition).collect();
                let (topics, bytes) = (self.dispatch.topics(), self.policy.batch_bytes);
                let claimed = Partitions { numbers: &numbers, ..all };
                within(patience, claimed.read(&mut tx, &healthy, topics, ROWS, bytes)).await?
            }
        };
        failpoint!(Read);
        let (mut savepoint, mut advances, mut over) = (Savepoint::new(false), Vec::with_capacity(pages.len()), false);
        for (claim, page) in healthy.into_iter().zip(pages) {
            let number = claim.partition;
            if let Some(finish) = self.not_now(&page, over)? {
                finished.push((number, finish));
                continue;
            }
            let (ran, last) = (sweep.ran.events.load(Ordering::Relaxed), sweep.in_hand.replace(number));
            let mut progress = Progress::new(started, Care::default(), false);
            (progress.savepoint, progress.after_others) = (savepoint, ran > 0);
            let Claim { cursor, opening, .. } = claim;
            let advance = batch(number).handle(&mut tx, &cursor, page, opening, ROWS, &mut progress).await;
            let advance = advance.map_err(|halt| match halt {
                Halt::Failed(error) => error,
                // Only of batches that are undone as a whole.
                Halt::Again { .. } | Halt::Hidden => sqlx::Error::Protocol("a sweep cannot be undone".into()).into(),
            })?;
            if sweep.ran.events.load(Ordering::Relaxed) == ran {
                sweep.in_hand = last;
            }
            let mut done = progress.done;
            savepoint = progress.savepoint;
            done.more |= cursor.target.is_some();
            done.out_of_savepoints = !savepoint.has_room();
            over = done.unavailable.is_some()
                || done.out_of_savepoints
                || started.elapsed() >= TIME
                || self.shutdown.is_cancelled();
            match advance {
                Advance::To(cursor) => advances.push((number, cursor)),
                partly => within(patience, self.partition(number).advance(&mut tx, &partly, 0)).await?,
            }
            finished.push((number, Finish::Done(done)));
        }
        if !advances.is_empty() {
            within(patience, all.advance(&mut tx, &advances)).await?;
        }
        failpoint!(Advanced);
        failpoint!(Committing);
        within(patience, tx.commit()).await?;
        failpoint!(Committed);
        Ok(finished)
    }

    fn partition(&self, number: i16) -> Partition<'_> {
        Partition { schema: self.log.schema(), group: &self.group, number }
    }

    /// Why a claimed partition is left as it is, if it is.
    fn not_now(&self, page: &Page, over: bool) -> Result<Option<Finish>, BatchError> {
        if page.mode != self.policy.mode.text() {
            return Err(ReadError::Mode { stored: page.mode.clone() }.into());
        }
        Ok(if page.paused {
            Some(Finish::Done(Done::default()))
        } else if page.retries_due {
            Some(Finish::Alone)
        } else {
            over.then_some(Finish::Left)
        })
    }
}

/// What is known of a sweep when it fails.
#[derive(Default)]
struct Sweep {
    ran: Ran,
    /// The partition whose events are being handled, or were the last to be.
    in_hand: Option<i16>,
}
