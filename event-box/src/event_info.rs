use std::{fmt, time::SystemTime};

use uuid::Uuid;

use crate::{headers::Headers, record::Record};

/// What a delivery tells of its event beside the payload. [`Context`](crate::Context) and [`Detached`](crate::Detached) give access to it
/// directly: `cx.id()`.
///
/// What it answers lives as long as the delivery, not only as long as the context is borrowed, so that a header can be bound in a query
/// that runs through the context.
#[derive(Clone, Copy)]
pub struct EventInfo<'c> {
    pub(crate) record: &'c Record,
    pub(crate) group: &'c str,
    pub(crate) attempt: u32,
}

impl<'c> EventInfo<'c> {
    /// The event's id, the same in every delivery.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// The topic it was stored under.
    pub fn topic(&self) -> &'c str {
        &self.record.topic
    }

    /// The version it was stored with; the handler's value is already of the type's own version.
    pub fn version(&self) -> i16 {
        self.record.version
    }

    /// The key it is ordered by, if any.
    pub fn partition_key(&self) -> Option<&'c str> {
        self.record.partition_key.as_deref()
    }

    /// Its place in the log: ascending within a key, unique in the log.
    pub fn sequence(&self) -> i64 {
        self.record.sequence
    }

    /// What travels beside the payload.
    pub fn headers(&self) -> &'c Headers {
        &self.record.headers
    }

    /// When the emitting statement began, by the database's clock; of a delayed event, when it was moved into the log.
    pub fn emitted_at(&self) -> SystemTime {
        self.record.emitted_at
    }

    /// Which attempt this is, 1 for the first. Only deliveries that failed are counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The consumer group.
    pub fn group(&self) -> &'c str {
        self.group
    }
}

impl fmt::Debug for EventInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventInfo")
            .field("group", &self.group)
            .field("topic", &self.record.topic)
            .field("id", &self.record.id)
            .field("sequence", &self.record.sequence)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
