use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use uuid::Uuid;

use crate::parked::Parking;

/// An event that a group has just given up: after its last attempt, because it was rejected, or because it killed its processes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The consumer group that could not handle it; other groups are not concerned.
    pub group: String,
    /// The event's topic.
    pub topic: String,
    /// The key it is ordered by, if any.
    pub partition_key: Option<String>,
    /// Its place in the log, by which it is requeued or skipped.
    pub sequence: i64,
    /// The event's id.
    pub id: Uuid,
    /// Failed attempts, the last one included.
    pub attempts: u32,
    /// Processes that died of it.
    pub deaths: u32,
    /// The last error, with its causes.
    pub error: String,
    /// Its key waits until a person decides ([`hold_keys`](crate::ConsumerBuilder::hold_keys)).
    pub holds_key: bool,
}

impl DeadLetter {
    pub(crate) fn new(group: &str, parking: &Parking) -> Self {
        Self {
            group: group.to_owned(),
            topic: parking.topic.clone(),
            partition_key: parking.partition_key.clone(),
            sequence: parking.sequence,
            id: parking.id,
            attempts: parking.attempts,
            deaths: parking.deaths,
            error: parking.error.clone().unwrap_or_default(),
            holds_key: parking.holds_key,
        }
    }
}

/// What a user wants done with each dead letter.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn(DeadLetter) -> BoxFuture<'static, ()> + Send + Sync>);

impl Hook {
    pub(crate) fn new<F, Fut>(hook: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |letter| hook(letter).boxed()))
    }

    async fn call(&self, letter: DeadLetter, timeout: Duration) {
        let (group, sequence) = (letter.group.clone(), letter.sequence);
        let called = AssertUnwindSafe(async { (self.0)(letter).await }).catch_unwind();
        match tokio::time::timeout(timeout, called).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!(group, sequence, "the hook for dead letters panicked"),
            Err(_) => tracing::error!(group, sequence, ?timeout, "the hook for dead letters did not end in time"),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Says what failed, once that is committed.
pub(crate) async fn report(group: &str, failures: &[Parking], hook: Option<&Hook>, timeout: Duration) {
    for parking in failures {
        let Parking { topic, sequence, id, attempts, deaths, holds_key, .. } = parking;
        let error = parking.error.as_deref().unwrap_or_default();
        if let Some(wait) = parking.due_in {
            tracing::warn!(group, topic, sequence, %id, attempts, deaths, ?wait, error, "event failed, it is tried again");
            continue;
        }
        tracing::error!(
            group, topic, sequence, %id, attempts, deaths, holds_key, error,
            "event failed for good, it is a dead letter"
        );
        if let Some(hook) = hook {
            hook.call(DeadLetter::new(group, parking), timeout).await;
        }
    }
}
