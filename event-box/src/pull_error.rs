use crate::check::LogError;

/// Events could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The transaction sees the log as of its beginning, and would pass events over.
    #[error(
        "events are pulled in read committed, this transaction is in {found}: begin it by `pool.begin()`, or \
         `begin_with(\"begin isolation level read committed\")`"
    )]
    Isolation {
        /// The transaction's isolation level.
        found: String,
    },
    /// There is nothing to pull.
    #[error("nothing is pulled for group `{group}`: call `.event::<E>()` or `.topic(..)` before `.open()`")]
    NoTopic {
        /// The group's name.
        group: String,
    },
    /// The group's name is empty or too long.
    #[error("`{group}` ({} bytes) cannot name a consumer group: use 1 to 255 bytes without NUL", group.len())]
    GroupName {
        /// The name.
        group: String,
    },
    /// The group delivers in another mode.
    #[error("consumer group `{group}` runs in mode `{stored}`: events are pulled in mode `transactional`")]
    Mode {
        /// The group's name.
        group: String,
        /// Its mode.
        stored: String,
    },
    /// The group was removed meanwhile.
    #[error("consumer group `{group}` was removed: open it again to make it anew")]
    GroupRemoved {
        /// The group's name.
        group: String,
    },
    /// The log is not one that events can be delivered from, or the database refused.
    #[error(transparent)]
    Log(#[from] LogError),
}
