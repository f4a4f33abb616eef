use sqlx::PgConnection;

use crate::{
    batch::{Batch, BatchError, Watch},
    claim::{Claim, Session},
    verdict::{Verdict, Verdicts},
};

/// Rows that a careful batch reads at a time: it hands over one event, but what is not the group's is passed over.
const CAREFUL_ROWS: usize = 20;

/// How carefully a batch must go, after a process died with events of this partition in hand.
///
/// The first death says only that one of a batch is to blame. So as many events as a batch holds then go one a transaction, each begun by
/// a committed row in `starts`: the second death leaves the row that names the culprit.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Events that still go one a transaction.
    pub(crate) left: usize,
    /// There are rows of ours or of the dead in `starts`.
    pub(crate) has_starts: bool,
    /// Events that killed their process.
    pub(crate) deadly: Verdicts,
    /// A process that began an event here may yet take it back.
    pub(crate) waits: bool,
}

impl Care {
    /// How many rows are to be read where a batch would read `limit`.
    pub(crate) fn rows(&self, limit: usize) -> usize {
        if self.left > 0 { limit.min(CAREFUL_ROWS) } else { limit }
    }
}

impl Batch<'_> {
    /// What is known of deaths in this partition. Costs a statement only where there is a reason to ask.
    pub(crate) async fn care(
        &self,
        connection: &mut PgConnection,
        claim: &Claim,
        session: &Session,
    ) -> Result<Care, BatchError> {
        let mut care = Care { left: claim.careful, ..Care::default() };
        let Some(Watch { process, .. }) = self.watch else { return Ok(Care::default()) };
        let earlier = process.claimed(self.partition.number, claim.xid);
        if session.aborted.is_none() && care.left == 0 {
            return Ok(care);
        }
        let (partition, group) = (self.partition.number, self.partition.group);
        let starts = self.within(self.partition.starts(connection, process.id)).await?;
        care.has_starts = !starts.is_empty();
        let foreign = || starts.iter().filter(|start| start.process != process.id);
        if foreign().next().is_some() {
            // Asked again, until it is settled.
            care.left = care.left.max(1);
            care.waits = foreign().any(|start| !start.abandoned);
            care.deadly = foreign().map(|start| (start.sequence, Verdict::died())).collect();
        } else if session.aborted.is_some_and(|xid| xid != earlier) {
            // Where it was this process that rolled back, it lives.
            care.left = self.policy.batch_size;
            tracing::warn!(
                group,
                partition,
                events = care.left,
                "a process of this group ended in the middle of a batch; the events it may have had in hand go one at a time"
            );
        }
        Ok(care)
    }
}
