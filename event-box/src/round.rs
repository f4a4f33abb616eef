use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};
use tokio::{sync::mpsc::UnboundedSender, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Assignment, BatchError, Done, Ran},
    chain::{Chain, End, Link, run_all},
    claim::Partition,
    cursor::{Advance, Cursor, Opening},
    deadline::within,
    failpoint::failpoint,
    held::{Held, Kept},
    parked::{Parked, Tries},
    read::{Page, ReadError},
    report::report,
    router::DispatchDetached,
    settle::settle,
    slots::Slots,
    verdict::Verdicts,
    worker::{Answer, Shared},
};

/// A claim whose handlers wait says so to the server this often, and hears whether it still holds.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// A claim that says nothing for this long is given up by the server: its process or its network is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// What a round needs beside what all workers need.
#[derive(Clone)]
pub(crate) struct Concurrency {
    pub(crate) handlers: Arc<dyn DispatchDetached>,
    pub(crate) slots: Arc<Slots>,
    /// Partitions that a round was offered and did not take.
    pub(crate) released: UnboundedSender<Vec<i16>>,
}

/// What a round was offered.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) partitions: Vec<i16>,
    /// At most this many rows of the log in each.
    pub(crate) rows: usize,
}

/// The partitions that a round was offered and has not taken: given back when it is dropped.
struct Offered {
    partitions: std::vec::IntoIter<i16>,
    released: UnboundedSender<Vec<i16>>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        // Nobody listens any more where the group ends.
        let _ = self.released.send(self.partitions.by_ref().collect());
    }
}

/// What a round came to in one partition.
#[derive(Debug)]
pub(crate) enum Finish {
    /// Another worker holds it.
    Busy,
    /// Events of it go one a transaction, or it has retries: for a batch of its own.
    Alone,
    /// It was not its turn any more.
    Left,
    Done(Done),
}

impl Finish {
    pub(crate) fn done(&self) -> Option<&Done> {
        match self {
            Self::Done(done) => Some(done),
            Self::Busy | Self::Alone | Self::Left => None,
        }
    }
}

/// A partition that a round holds.
struct Claimed {
    number: i16,
    cursor: Cursor,
    page: Page,
    due: Vec<Parked>,
    ends: Vec<End>,
}

/// The handlers of a concurrent group: several partitions claimed in one transaction, as many as it takes to keep all slots busy, whose
/// handlers run side by side without it. It is kept alive meanwhile; when all have ended the cursors advance.
impl Shared {
    pub(crate) async fn round(
        self: &Arc<Self>,
        kept: Option<Kept>,
        offer: Offer,
        concurrency: &Concurrency,
    ) -> (Vec<i16>, Answer<Result<Vec<(i16, Finish)>, BatchError>>) {
        let Offer { partitions, rows } = offer;
        let mut offered = Offered { partitions: partitions.into_iter(), released: concurrency.released.clone() };
        let mut taken: Vec<i16> = offered.partitions.next().into_iter().collect();
        let mut held = match self.connect(kept).await {
            Ok(held) => held,
            Err(error) => return (taken, (None, Err(error.into()))),
        };
        match self.run_round(&mut held, offered, rows, concurrency, &mut taken).await {
            Ok(finished) => {
                self.committed(&finished).await;
                (taken, (Some(held.keep()), Ok(finished)))
            }
            Err(error) => {
                drop(held);
                for partition in &taken {
                    self.process.lived(*partition);
                }
                (taken, (None, Err(error)))
            }
        }
    }

    /// What several partitions came to in a transaction that is committed.
    pub(crate) async fn committed(&self, finished: &[(i16, Finish)]) {
        for (partition, finish) in finished {
            self.process.ended(*partition);
            if let Finish::Done(done) = finish {
                let (hook, timeout) = (self.dead_letter_hook.as_ref(), self.policy.handler_timeout);
                report(&self.group, &done.failures, hook, timeout).await;
            }
        }
    }

    async fn run_round(
        self: &Arc<Self>,
        held: &mut Held,
        mut offered: Offered,
        rows: usize,
        concurrency: &Concurrency,
        taken: &mut Vec<i16>,
    ) -> Result<Vec<(i16, Finish)>, BatchError> {
        let patience = self.policy.statement_timeout();
        let begin = AssertSqlSafe(self.begin(SILENCE)).into_sql_str();
        let mut tx = within(patience, held.connection()?.begin_with(begin)).await?;
        failpoint!(RoundBegun);
        let closing = self.shutdown.child_token();
        // Dropped with the round, and what runs in it: a claim that is lost is no longer ours to work on.
        let mut chains = JoinSet::new();
        let (mut claimed, mut finished, mut opening) = (Vec::new(), Vec::new(), None);
        let mut bytes = self.policy.batch_bytes;
        let mut next = taken.first().copied();
        while let Some(number) = next {
            match self.claim(&mut tx, number, rows, bytes, &mut opening).await? {
                Ok(claim) => {
                    bytes = bytes.saturating_sub(payload_bytes(&claim));
                    let at = claimed.len();
                    let of_claim = chains_of(&claim, rows, self.dispatch.topics(), &concurrency.slots);
                    let run = run_all(of_claim, self.clone(), concurrency.handlers.clone(), closing.clone());
                    chains.spawn(async move { (at, run.await) });
                    claimed.push(claim);
                }
                Err(finish) => finished.push((number, finish)),
            }
            let wants_more = concurrency.slots.room() > 0 && bytes > 0 && !closing.is_cancelled();
            next = if wants_more { offered.partitions.next() } else { None };
            taken.extend(next);
        }
        drop(offered);
        self.wait_for(&mut tx, &mut chains, &mut claimed, &closing).await?;
        failpoint!(RoundHandled);
        for claim in claimed {
            finished.push((claim.number, Finish::Done(self.settle(&mut tx, claim, rows, opening).await?)));
        }
        failpoint!(RoundCommitting);
        within(patience, tx.commit()).await?;
        failpoint!(RoundCommitted);
        Ok(finished)
    }

    /// One more partition for the round, with what is to be done in it.
    async fn claim(
        &self,
        connection: &mut PgConnection,
        number: i16,
        rows: usize,
        bytes: usize,
        first_opening: &mut Option<Opening>,
    ) -> Result<Result<Claimed, Finish>, BatchError> {
        let partition = Partition { schema: self.log.schema(), group: &self.group, number };
        let (assignment, ran) = (self.nothing_special(rows), Ran::default());
        let batch = self.as_batch(partition, &assignment, &ran);
        let Some(claim) = batch.within(partition.claim(connection)).await? else { return Ok(Err(Finish::Busy)) };
        // Read before this transaction took its id, for the first and so for all.
        first_opening.get_or_insert(claim.opening);
        let earlier = batch.note(&claim);
        failpoint!(RoundClaimed);
        let care = batch.care(connection, &claim, earlier).await?;
        let topics = self.dispatch.topics();
        let read = partition.read(connection, &claim, topics, rows, bytes);
        let page = batch.within(read).await?;
        failpoint!(RoundRead);
        if page.mode != self.policy.mode.text() {
            return Err(ReadError::Mode { stored: page.mode }.into());
        }
        let due = match page.retries_due && !page.paused {
            true => batch.within(partition.due(connection, topics, rows, bytes)).await?,
            false => Vec::new(),
        };
        if care.is_needed() || due.iter().any(|parked| parked.tries.deaths > 0) {
            batch.within(partition.advance(connection, &Advance::Nothing, care.left)).await?;
            return Ok(Err(Finish::Alone));
        }
        if page.paused {
            batch.within(partition.advance(connection, &Advance::Nothing, 0)).await?;
            return Ok(Err(Finish::Done(Done::default())));
        }
        Ok(Ok(Claimed { number, cursor: claim.cursor, page, due, ends: Vec::new() }))
    }

    /// Until every claim's chains are through. No further event begins after the batch's time, at shutdown, and where the other side is down.
    async fn wait_for(
        &self,
        connection: &mut PgConnection,
        chains: &mut JoinSet<(usize, Vec<End>)>,
        claimed: &mut [Claimed],
        closing: &CancellationToken,
    ) -> Result<(), BatchError> {
        let time_is_up = tokio::time::sleep(self.policy.batch_time);
        tokio::pin!(time_is_up);
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.reset();
        loop {
            tokio::select! {
                biased;
                joined = chains.join_next() => match joined {
                    None => return Ok(()),
                    Some(Ok((at, ends))) => claimed[at].ends = ends,
                    // Handlers' panics are caught where they are called: this one is ours.
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                },
                () = &mut time_is_up, if !closing.is_cancelled() => closing.cancel(),
                _ = keep_alive.tick() => {
                    let alive = sqlx::query!("select 'the claim is kept' as alive");
                    let alive = alive.fetch_one(self.log.schema().over(&mut *connection));
                    within(SILENCE, alive).await?;
                    failpoint!(RoundKeptAlive);
                }
            }
        }
    }

    /// Writes what became of a partition's events, and advances its cursor.
    async fn settle(
        &self,
        connection: &mut PgConnection,
        claim: Claimed,
        rows: usize,
        opening: Option<Opening>,
    ) -> Result<Done, BatchError> {
        let Claimed { number, cursor, page, due, ends } = claim;
        let partition = Partition { schema: self.log.schema(), group: &self.group, number };
        let settled = settle(&page.rows, rows, &due, ends, self.dispatch.topics());
        let opening = opening.unwrap_or(Opening { last_value: 0, bound: true });
        let advance = cursor.advance(&page.seen, page.own_xid, opening, settled.handled, settled.next);
        let written = async {
            partition.park(connection, &settled.parkings).await?;
            if !settled.cleared.is_empty() {
                partition.clear(connection, &settled.cleared).await?;
            }
            if !settled.keys.is_empty() {
                partition.promote(connection, &settled.keys).await?;
            }
            partition.advance(connection, &advance, 0).await
        };
        within(self.policy.statement_timeout(), written).await?;
        failpoint!(RoundAdvanced);
        let mut done = settled.done;
        done.more |= cursor.target.is_some();
        Ok(done)
    }

    fn nothing_special(&self, rows: usize) -> Assignment {
        Assignment { rows, events: rows, verdicts: Verdicts::new(), suspect: None }
    }
}

fn payload_bytes(claim: &Claimed) -> usize {
    let rows = claim.page.rows.iter().filter_map(|row| row.record.as_ref());
    rows.chain(claim.due.iter().filter_map(|parked| parked.record.as_ref()))
        .map(|record| record.payload.len() + record.headers.bytes())
        .sum()
}

/// What can be begun at once: an event after the other of each key, and each event without one. Behind what is parked nothing is.
fn chains_of(claim: &Claimed, limit: usize, topics: &[String], slots: &Arc<Slots>) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut of_key: HashMap<&str, usize> = HashMap::new();
    let mut blocked: HashSet<&str> = HashSet::new();
    let retries = claim.due.iter().map(|parked| (parked.record.as_ref(), parked.tries, parked.ready));
    let rows = claim.page.rows.iter().take(limit).take_while(|row| !row.subscribed || row.record.is_some());
    let fresh = rows.filter(|row| row.subscribed).map(|row| {
        let known = row.record.as_ref().is_some_and(|record| topics.binary_search(&record.topic).is_ok());
        (row.record.as_ref(), Tries::default(), known && !row.behind)
    });
    for (record, tries, ready) in retries.chain(fresh) {
        let Some(record) = record else { continue };
        let key = record.partition_key.as_deref();
        if key.is_some_and(|key| blocked.contains(key)) {
            continue;
        }
        if !ready {
            blocked.extend(key);
            continue;
        }
        let link = Link { record: record.clone(), tries };
        match key.and_then(|key| of_key.get(key)) {
            Some(at) => chains[*at].links.push(link),
            None => {
                of_key.extend(key.map(|key| (key, chains.len())));
                chains.push(Chain { partition: claim.number, links: vec![link], seat: slots.seat() });
            }
        }
    }
    for chain in &mut chains {
        // A late event may stand before a retry of its key.
        chain.links.sort_by_key(|link| link.record.sequence);
    }
    chains
}
