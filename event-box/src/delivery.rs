use std::{fmt, sync::Arc};

use crate::{event_info::EventInfo, failed::Failed, failure::Failure, record::Record};

/// One event of those that a batch handler is given together: see [`ConsumerBuilder::on_batch`](crate::ConsumerBuilder::on_batch).
pub struct Delivery<E> {
    /// The event itself.
    pub event: E,
    record: Arc<Record>,
    group: Arc<str>,
    attempt: u32,
}

impl<E> Delivery<E> {
    pub(crate) fn new(event: E, record: Arc<Record>, group: Arc<str>, attempt: u32) -> Self {
        Self { event, record, group, attempt }
    }

    /// Its id, topic, key, headers and the like.
    pub fn info(&self) -> EventInfo<'_> {
        EventInfo { record: &self.record, group: &self.group, attempt: self.attempt }
    }

    /// Names this event as one that was not handled, in the handler's answer: any error, or [`Failure`] to say more. See
    /// [`ConsumerBuilder::on_batch`](crate::ConsumerBuilder::on_batch).
    pub fn failed(&self, error: impl Into<Failure>) -> Failed {
        Failed { sequence: self.record.sequence, failure: error.into() }
    }
}

impl<E: fmt::Debug> fmt::Debug for Delivery<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("event", &self.event).field("info", &self.info()).finish()
    }
}
