use std::{any::Any, collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use crate::{
    context::Delivery,
    failure::{Failure, Panicked},
    handler::Route,
    trace,
};

/// The handlers of a group, whatever state they share.
pub(crate) trait Dispatch: Send + Sync {
    /// The topics that have a handler here, ascending.
    fn topics(&self) -> &[String];

    /// Runs every handler of the event, in the order they were bound, until one fails. A panic is a failure.
    fn deliver<'a>(&'a self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), Failure>>;
}

pub(crate) struct Router<S> {
    state: S,
    topics: Vec<String>,
    routes: BTreeMap<&'static str, Vec<Arc<dyn Route<S>>>>,
}

impl<S> Router<S> {
    pub(crate) fn new(state: S, routes: BTreeMap<&'static str, Vec<Arc<dyn Route<S>>>>) -> Self {
        let topics = routes.keys().map(|topic| (*topic).to_owned()).collect();
        Self { state, topics, routes }
    }
}

impl<S: Send + Sync + 'static> Dispatch for Router<S> {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn deliver<'a>(&'a self, mut delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        let span = trace::processing(delivery.record, delivery.group, delivery.attempt, delivery.partition);
        Box::pin(trace::processed(span, delivery.deadline, async move {
            for route in self.routes.get(delivery.record.topic.as_str()).into_iter().flatten() {
                let handled =
                    AssertUnwindSafe(async { route.call(delivery.again(), &self.state).await }).catch_unwind();
                handled.await.unwrap_or_else(|panic| Err(Failure::Retry(Panicked(message(&*panic)).into())))?;
            }
            Ok(())
        }))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}
