use std::time::{Duration, SystemTime};

use sqlx::PgExecutor;

use super::log::Log;
use crate::event::Event;

/// The events of a type that the executor sees in the log, oldest first: those of an open transaction's own, and whatever is committed.
/// Those that are not due yet are told by [`delayed`].
///
/// # Panics
/// Where the log cannot be read, or holds an event of the topic that is not of this type.
pub async fn emitted<E: Event>(executor: impl PgExecutor<'_>) -> Vec<E> {
    Log::default().emitted(executor).await
}

/// The delayed events of a type that the executor sees, and when they are due, the next first. The time is exact to the microsecond.
///
/// # Panics
/// Where the log cannot be read, or a delayed event of the topic is not of this type.
pub async fn delayed<E: Event>(executor: impl PgExecutor<'_>) -> Vec<(E, SystemTime)> {
    Log::default().delayed(executor).await
}

/// Asserts that an event like this was emitted without a delay: of its topic, with its partition key and the same payload, key order of objects aside.
///
/// # Panics
/// Where there is none: with the difference to the one that comes closest, and how many there were.
pub async fn assert_emitted<E: Event>(executor: impl PgExecutor<'_>, expected: &E) {
    Log::default().assert_emitted(executor, expected).await;
}

/// Asserts that an event like this waits for its time, and was emitted with this [`delay`](crate::Emit::delay), exact to the microsecond. For one that
/// was given a time, compare what [`delayed`] answers.
///
/// ```no_run
/// # use event_box::{BoxError, Event, Outbox, testing};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Serialize, Deserialize, Event)]
/// # struct PaymentOverdue { order_id: i64 }
/// # async fn shows(pool: sqlx::PgPool) -> Result<(), BoxError> {
/// let hour = Duration::from_secs(60 * 60);
/// Outbox::new().emit(&pool, &PaymentOverdue { order_id: 7 }).delay(hour).await?;
/// testing::assert_delayed(&pool, &PaymentOverdue { order_id: 7 }, hour).await;
/// # Ok(()) }
/// ```
///
/// # Panics
/// Where there is none: with the difference to the one that comes closest, and how many there were.
pub async fn assert_delayed<E: Event>(executor: impl PgExecutor<'_>, expected: &E, delay: Duration) {
    Log::default().assert_delayed(executor, expected, delay).await;
}

/// Asserts that an event of this type was emitted without a delay for which the matcher holds.
///
/// # Panics
/// Where there is none: with all that were emitted.
pub async fn assert_emitted_matching<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    Log::default().assert_emitted_matching(executor, matches).await;
}

/// Asserts that no event of this type was emitted for which the matcher holds, with a delay or without.
///
/// # Panics
/// Where there is one: with all such.
pub async fn assert_not_emitted<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    Log::default().assert_not_emitted(executor, matches).await;
}
