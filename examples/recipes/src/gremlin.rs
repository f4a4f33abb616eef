use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use event_box::BoxError;

/// Makes handlers fail technically: every so many calls one strikes.
#[derive(Debug, Clone)]
pub struct Gremlin {
    every: u32,
    calls: Arc<AtomicU32>,
    strikes: Arc<AtomicU32>,
}

impl Gremlin {
    /// Strikes at every so many calls; 0 is never.
    pub fn every(calls: u32) -> Self {
        Self { every: calls, calls: Arc::default(), strikes: Arc::default() }
    }

    /// Fails, or does not.
    ///
    /// # Errors
    /// When it strikes.
    pub fn strike(&self) -> Result<(), BoxError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.every == 0 || !call.is_multiple_of(self.every) {
            return Ok(());
        }
        self.strikes.fetch_add(1, Ordering::Relaxed);
        Err("a gremlin has pulled the plug".into())
    }

    /// How often it has struck.
    pub fn strikes(&self) -> u32 {
        self.strikes.load(Ordering::Relaxed)
    }
}
