use std::sync::{Arc, Mutex, PoisonError};

use futures_core::future::BoxFuture;

use crate::{failure::Failure, record::Record, router::Dispatch, work::Work};

/// Takes what a batch delivers, for whoever pulls: the event, and which attempt this is.
pub(crate) struct Collector<'t> {
    topics: &'t [String],
    collected: Mutex<Vec<(Arc<Record>, u32)>>,
}

impl<'t> Collector<'t> {
    pub(crate) fn new(topics: &'t [String]) -> Self {
        Self { topics, collected: Mutex::default() }
    }

    pub(crate) fn into_collected(self) -> Vec<(Arc<Record>, u32)> {
        self.collected.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatch for Collector<'_> {
    fn topics(&self) -> &[String] {
        self.topics
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        let collected = (work.records[0].clone(), work.attempt);
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).push(collected);
        Box::pin(std::future::ready(Ok(())))
    }
}
