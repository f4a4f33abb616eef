use std::ops::Deref;

use crate::{context::Context, detached::Detached, event_info::EventInfo};

/// How a group's handlers are called, as the type of its builder: it decides what they are given beside the event. [`Transactional`] or
/// [`Concurrent`]; not for implementation.
pub trait GroupMode: sealed::Sealed + Send + Sync + 'static {
    /// What a handler is given beside its event.
    type Context<'a, S: Sync + 'a>: Deref<Target = EventInfo<'a>> + Send;

    /// The same context for one of several who take part in the delivery.
    #[doc(hidden)]
    fn again<'b, 'a, S: Sync>(cx: &'b mut Self::Context<'a, S>) -> Self::Context<'b, S>;
}

/// Handlers share the transaction in which the group's cursor advances: they are given a [`Context`]. The default.
#[derive(Debug)]
pub struct Transactional;

/// Handlers wait for others, many at once, in no transaction: they are given a [`Detached`]. See
/// [`ConsumerBuilder::concurrent`](crate::ConsumerBuilder::concurrent).
#[derive(Debug)]
pub struct Concurrent;

impl GroupMode for Transactional {
    type Context<'a, S: Sync + 'a> = Context<'a, S>;

    fn again<'b, 'a, S: Sync>(cx: &'b mut Context<'a, S>) -> Context<'b, S> {
        cx.again()
    }
}

impl GroupMode for Concurrent {
    type Context<'a, S: Sync + 'a> = Detached<'a, S>;

    fn again<'b, 'a, S: Sync>(cx: &'b mut Detached<'a, S>) -> Detached<'b, S> {
        Detached::new(cx.info(), cx.state())
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Transactional {}
    impl Sealed for super::Concurrent {}
}
