use crate::{check::LogError, mode::Mode};

/// Why a consumer stopped by itself. What it was handling was rolled back, and is delivered again once it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The log is not one that events can be delivered from.
    #[error("the event log cannot be delivered from")]
    Log(#[from] LogError),
    /// The group was removed while it ran.
    #[error("consumer group `{group}` was removed while it ran: start it again to make it anew")]
    GroupRemoved {
        /// The group's name.
        group: String,
    },
    /// The group delivers in another mode than this consumer was built for: one group has one mode.
    #[error(
        "consumer group `{group}` runs in mode `{stored}`, this consumer is built for `{own}`: build it alike, or call \
         `EventBox::group(\"{group}\").set_mode(..)`"
    )]
    Mode {
        /// The group's name.
        group: String,
        /// The group's mode.
        stored: String,
        /// The consumer's.
        own: Mode,
    },
    /// The signals that should end the consumer could not be listened for.
    #[error("SIGINT and SIGTERM cannot be listened for: use `run` with a token of your own")]
    Signal(#[source] std::io::Error),
}
