use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many handlers of a concurrent group run at once in this process, and how many keys have something to run.
#[derive(Debug)]
pub(crate) struct Slots {
    permits: Arc<Semaphore>,
    size: usize,
    /// Chains that are not through yet: each keeps one slot busy at most.
    load: AtomicUsize,
    freed: Notify,
}

/// A chain's place in the load, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Slots>);

impl Slots {
    pub(crate) fn new(size: usize) -> Self {
        // More than tokio's semaphore can count is as good as no limit.
        let permits = Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS)));
        Self { permits, size, load: AtomicUsize::new(0), freed: Notify::new() }
    }

    /// How many more keys it takes to keep every slot busy.
    pub(crate) fn room(&self) -> usize {
        self.size.saturating_sub(self.load.load(Ordering::Relaxed))
    }

    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        self.load.fetch_add(1, Ordering::Relaxed);
        Seat(self.clone())
    }

    /// Waits until a seat was given back while there was no room.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Seat {
    /// Waits for a slot, in the order of asking. `None` never comes: the semaphore is not closed.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.0.permits.clone().acquire_owned().await.ok()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.0.load.fetch_sub(1, Ordering::Relaxed) <= self.0.size {
            self.0.freed.notify_one();
        }
    }
}
