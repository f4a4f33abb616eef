use std::{error::Error, fmt, time::Duration};

use crate::error::BoxError;

/// What a handler says of an event it did not handle. Any other error converts into [`Retry`](Self::Retry), so that `?` does the
/// usual thing.
///
/// ```
/// use event_box::{Failure, OrReject};
///
/// fn quantity(text: &str) -> Result<u32, Failure> {
///     // Trying again will not make this a number.
///     text.parse::<u32>().or_reject()
/// }
/// assert!(matches!(quantity("seven"), Err(Failure::Reject(_))));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// Try again later, with backoff; later events of the same key wait meanwhile.
    Retry(BoxError),
    /// Never try again: the event becomes a dead letter at once.
    Reject(BoxError),
    /// What the handler depends on is down: nothing is held against the event, and the whole group backs off.
    Unavailable(BoxError),
    /// Not yet: try again after this long, without counting an attempt; later events of the same key wait meanwhile.
    Snooze(Duration),
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(error) | Self::Reject(error) | Self::Unavailable(error) => f.write_str(&chain(&**error)),
            Self::Snooze(delay) => write!(f, "snoozed for {delay:?}"),
        }
    }
}

/// What a handler's panic becomes.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

/// The error and its causes, as one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        // Some errors, sqlx's among them, tell their cause as well as naming it.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A deadlock or a serialization failure: two transactions were in each other's way, and neither is to blame.
pub(crate) fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    has_code(error, &["40P01", "40001"])
}

/// A statement before this one had failed in the same transaction.
pub(crate) fn is_in_failed_transaction(error: &(dyn Error + 'static)) -> bool {
    has_code(error, &["25P02"])
}

/// The handler's database is full, read-only or going down: that says nothing against the event.
pub(crate) fn is_outage(error: &(dyn Error + 'static)) -> bool {
    // read_only_sql_transaction, disk_full, too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now
    has_code(error, &["25006", "53100", "53300", "57P01", "57P02", "57P03"])
}

fn has_code(error: &(dyn Error + 'static), codes: &[&str]) -> bool {
    let code = |error: &(dyn Error + 'static)| {
        Some(error.downcast_ref::<sqlx::Error>()?.as_database_error()?.code()?.into_owned())
    };
    causes(error).filter_map(code).any(|code| codes.contains(&code.as_str()))
}

/// The error itself, then what caused it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| Error::source(*error))
}

/// Turns an error into a rejection: `parse(..).or_reject()?`.
pub trait OrReject<T> {
    /// The value, or [`Failure::Reject`].
    ///
    /// # Errors
    /// Where it was an error.
    fn or_reject(self) -> Result<T, Failure>;
}

impl<T, E: Into<BoxError>> OrReject<T> for Result<T, E> {
    fn or_reject(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Reject(error.into()))
    }
}

/// Turns an error into an outage: `client.send(..).await.or_unavailable()?`.
pub trait OrUnavailable<T> {
    /// The value, or [`Failure::Unavailable`].
    ///
    /// # Errors
    /// Where it was an error.
    fn or_unavailable(self) -> Result<T, Failure>;
}

impl<T, E: Into<BoxError>> OrUnavailable<T> for Result<T, E> {
    fn or_unavailable(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Unavailable(error.into()))
    }
}
