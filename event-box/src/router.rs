use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_core::future::BoxFuture;

use crate::{
    context::Context,
    detached::Detached,
    event_info::EventInfo,
    failure::Failure,
    group_mode::{Concurrent, Transactional},
    handler::Route,
    middleware::{Layer, Next},
    trace,
    work::{Terms, Work},
};

/// The handlers of a group, whatever state they share.
pub(crate) trait Dispatch: Send + Sync {
    /// The topics that have a handler here, ascending.
    fn topics(&self) -> &[String];

    /// Runs every handler of the event, in the order they were bound, until one fails. A panic is a failure.
    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>>;

    /// The batch handler of the topic, by its number, where it has one.
    fn batch_handler(&self, _topic: &str) -> Option<usize> {
        None
    }

    /// Whether any topic has one.
    fn has_batch_handlers(&self) -> bool {
        false
    }

    /// Whether a batch handler may be given `next` in a run that begins with `first`.
    fn together(&self, _first: &EventInfo<'_>, _next: &EventInfo<'_>) -> bool {
        true
    }
}

/// The handlers of a concurrent group: called without a transaction.
pub(crate) trait DispatchDetached: Send + Sync {
    /// As [`Dispatch::deliver`].
    fn deliver<'a>(&'a self, info: EventInfo<'a>, terms: Terms) -> BoxFuture<'a, Result<(), Failure>>;
}

/// A topic's handlers, in the order they were bound.
pub(crate) struct Handlers<S, M> {
    pub(crate) routes: Vec<Arc<dyn Route<S, M>>>,
    /// It is a batch handler, the group's so-manieth; then it is the only one.
    pub(crate) batch: Option<usize>,
}

impl<S, M> Default for Handlers<S, M> {
    fn default() -> Self {
        Self { routes: Vec::new(), batch: None }
    }
}

pub(crate) type Routes<S, M> = BTreeMap<&'static str, Handlers<S, M>>;

pub(crate) struct Router<S, M> {
    state: S,
    topics: Vec<String>,
    routes: Routes<S, M>,
    middleware: Vec<Arc<dyn Layer<S, M>>>,
}

impl<S: Sync, M: crate::group_mode::GroupMode> Router<S, M> {
    pub(crate) fn new(state: S, routes: Routes<S, M>, middleware: Vec<Arc<dyn Layer<S, M>>>) -> Self {
        let topics = routes.keys().map(|topic| (*topic).to_owned()).collect();
        Self { state, topics, routes, middleware }
    }

    fn next(&self, topic: &str) -> Next<'_, S, M> {
        Next::new(&self.middleware, self.routes.get(topic).map_or(&[], |handlers| &handlers.routes))
    }
}

impl<S: Send + Sync + 'static> Dispatch for Router<S, Transactional> {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        let Work { records, group, attempt, terms: Terms { partition, deadline }, .. } = work;
        let span = match records {
            [record] => trace::processing(record, group, attempt, partition),
            run => trace::processing_all(run, group, attempt, partition),
        };
        Box::pin(trace::processed(span, deadline, async move {
            let mut cx = Context::new(work, &self.state);
            self.next(cx.topic()).run(&mut cx).await
        }))
    }

    fn batch_handler(&self, topic: &str) -> Option<usize> {
        self.routes.get(topic)?.batch
    }

    fn has_batch_handlers(&self) -> bool {
        self.routes.values().any(|handlers| handlers.batch.is_some())
    }

    fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
        let together = || self.middleware.iter().all(|layer| layer.together(first, next));
        // A panic must not end the consumer: its event begins a run of its own.
        catch_unwind(AssertUnwindSafe(together)).unwrap_or(false)
    }
}

impl<S: Send + Sync + 'static> Dispatch for Router<S, Concurrent> {
    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn deliver<'a>(&'a self, work: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        DispatchDetached::deliver(self, work.first(), work.terms)
    }
}

impl<S: Send + Sync + 'static> DispatchDetached for Router<S, Concurrent> {
    fn deliver<'a>(&'a self, info: EventInfo<'a>, terms: Terms) -> BoxFuture<'a, Result<(), Failure>> {
        let span = trace::processing(info.record, info.group, info.attempt, terms.partition);
        Box::pin(trace::processed(span, terms.deadline, async move {
            let mut cx = Detached::new(info, &self.state);
            self.next(info.topic()).run(&mut cx).await
        }))
    }
}
