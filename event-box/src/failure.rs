use std::{fmt, time::Duration};

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

/// The error and its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
