use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box_tests::{Counted, PATIENCE};
use tokio::sync::Notify;

/// What handlers did, outside of any transaction.
#[derive(Default)]
pub(super) struct Book {
    pub(super) begun: Mutex<Vec<(String, i64)>>,
    pub(super) ended: Mutex<Vec<(String, i64)>>,
    /// Keys with a handler at work, and how many there are at most.
    pub(super) at_work: Mutex<HashMap<String, usize>>,
    pub(super) most: AtomicUsize,
    changed: Notify,
}

impl Book {
    pub(super) fn leaked() -> &'static Self {
        Box::leak(Box::default())
    }

    pub(super) fn begin(&self, event: &Counted) -> AtWork<'_> {
        let mut at_work = self.at_work.lock().unwrap();
        let of_key = at_work.entry(event.key.clone()).or_default();
        *of_key += 1;
        assert_eq!(*of_key, 1, "one at a time of key {}", event.key);
        self.most.fetch_max(at_work.len(), Ordering::Relaxed);
        self.begun.lock().unwrap().push((event.key.clone(), event.n));
        self.changed.notify_waiters();
        AtWork(self, event.key.clone())
    }

    pub(super) fn end(&self, event: &Counted) {
        self.ended.lock().unwrap().push((event.key.clone(), event.n));
        self.changed.notify_waiters();
    }

    pub(super) fn of_key(&self, key: &str) -> Vec<i64> {
        self.ended.lock().unwrap().iter().filter(|(of, _)| of == key).map(|(_, n)| *n).collect()
    }

    pub(super) async fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let changed = self.changed.notified();
                if holds(self) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), changed).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:?}", self.ended.lock().unwrap());
    }

    pub(super) async fn wait_for(&self, events: usize) {
        self.wait_until("events", |book| book.ended.lock().unwrap().len() >= events).await;
    }
}

pub(super) struct AtWork<'b>(&'b Book, String);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.lock().unwrap().remove(&self.1);
        self.0.changed.notify_waiters();
    }
}
