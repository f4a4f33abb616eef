use sqlx::PgExecutor;

use super::log::Log;
use crate::event::Event;

/// The events of a type that the executor sees, oldest first: those of an open transaction's own, and whatever is committed.
///
/// # Panics
/// Where the log cannot be read, or holds an event of the topic that is not of this type.
pub async fn emitted<E: Event>(executor: impl PgExecutor<'_>) -> Vec<E> {
    Log::default().emitted(executor).await
}

/// Asserts that an event like this was emitted: of its topic, with its partition key and the same payload, key order of objects aside.
///
/// # Panics
/// Where there is none: with the difference to the one that comes closest, and how many there were.
pub async fn assert_emitted<E: Event>(executor: impl PgExecutor<'_>, expected: &E) {
    Log::default().assert_emitted(executor, expected).await;
}

/// Asserts that an event of this type was emitted for which the matcher holds.
///
/// # Panics
/// Where there is none: with all that were emitted.
pub async fn assert_emitted_matching<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    Log::default().assert_emitted_matching(executor, matches).await;
}

/// Asserts that no event of this type was emitted for which the matcher holds.
///
/// # Panics
/// Where there is one: with all such.
pub async fn assert_not_emitted<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    Log::default().assert_not_emitted(executor, matches).await;
}
