use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How much of something has begun and ended. What is cut off has begun, and never ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Gauge {
    pub(crate) async fn measure<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let done = work.await;
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        done
    }

    pub(crate) fn ended(&self) -> usize {
        self.0.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn under_way(&self) -> usize {
        // In this order, or what begins and ends in between would count below zero.
        let ended = self.ended();
        self.0.begun.load(Ordering::Relaxed) - ended
    }
}
