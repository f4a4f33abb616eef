use std::sync::Arc;

use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{event_info::EventInfo, failed::Failed, record::Record, savepoint::Savepoint};

/// Events on their way to their handlers in the delivery's transaction: one, or the run of a batch handler.
pub(crate) struct Work<'c> {
    pub(crate) connection: &'c mut PgConnection,
    pub(crate) savepoint: &'c mut Savepoint,
    /// One at least, in sequence order.
    pub(crate) records: &'c [Arc<Record>],
    pub(crate) group: &'c str,
    pub(crate) attempt: u32,
    pub(crate) terms: Terms,
    pub(crate) answer: &'c mut Answer,
    /// Statements are not to be prepared.
    pub(crate) unprepared: bool,
}

/// Where events come from, and when their handlers are given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) partition: i16,
    pub(crate) deadline: Instant,
}

/// What the handler of a run said of single events of it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) failed: Vec<Failed>,
    /// They could not be decoded, and the handler was not called at all.
    pub(crate) undecodable: bool,
}

impl<'c> Work<'c> {
    /// The first event.
    pub(crate) fn first(&self) -> EventInfo<'c> {
        EventInfo { record: &self.records[0], group: self.group, attempt: self.attempt }
    }
}
