use std::sync::{Mutex, PoisonError};

use futures_core::future::BoxFuture;

use crate::{context::Delivery, failure::Failure, record::Record, router::Dispatch};

/// Takes what a batch delivers, for whoever pulls: the event, and which attempt this is.
pub(crate) struct Collector<'t> {
    topics: &'t [String],
    collected: Mutex<Vec<(Record, u32)>>,
}

impl<'t> Collector<'t> {
    pub(crate) fn new(topics: &'t [String]) -> Self {
        Self { topics, collected: Mutex::default() }
    }

    pub(crate) fn into_collected(self) -> Vec<(Record, u32)> {
        self.collected.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatch for Collector<'_> {
    fn topics(&self) -> &[String] {
        self.topics
    }

    fn deliver<'a>(&'a self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        let collected = (delivery.record.clone(), delivery.attempt);
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).push(collected);
        Box::pin(std::future::ready(Ok(())))
    }
}
