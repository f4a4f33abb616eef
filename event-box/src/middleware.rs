use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use crate::{
    event_info::EventInfo,
    failure::{Failure, Panicked},
    group_mode::{GroupMode, Transactional},
    handler::Route,
};

/// What wraps every delivery of a group: logging, metrics, authorisation, tenancy. Added by
/// [`ConsumerBuilder::middleware`](crate::ConsumerBuilder::middleware).
///
/// [`deliver`](Self::deliver) is called once a delivery, around all handlers of the event; it does its part and goes on by [`Next::run`].
/// What it answers is what became of the event: without going on, `Ok(())` passes the event over as if it had been handled, and an
/// error fails it. It works in the delivery's transaction like a handler: what it writes is undone where the event fails. The handler
/// time-out covers it. A panic further in arrives as a [`Failure::Retry`].
///
/// Here each event is handled as its tenant, for row-level security. Such settings outlast the event's savepoint and reach its neighbours
/// of the batch, so they must be set for *every* event, the empty value where there is none:
///
/// ```
/// use event_box::{Context, EventInfo, Failure, Middleware, Next};
///
/// struct AsTenant;
///
/// impl<S: Sync> Middleware<S> for AsTenant {
///     async fn deliver(&self, cx: &mut Context<'_, S>, next: Next<'_, S>) -> Result<(), Failure> {
///         let tenant = cx.headers().get("tenant").unwrap_or_default();
///         sqlx::query("select set_config('app.tenant', $1, true)").bind(tenant).execute(&mut *cx).await?;
///         next.run(cx).await
///     }
///
///     // A batch handler is given the events of one tenant at a time.
///     fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
///         first.headers().get("tenant") == next.headers().get("tenant")
///     }
/// }
/// ```
///
/// What wants nothing of the transaction serves both modes, and names the lifetime:
///
/// ```
/// # use event_box::{Failure, GroupMode, Middleware, Next};
/// struct Timed;
///
/// impl<S: Sync, M: GroupMode> Middleware<S, M> for Timed {
///     async fn deliver<'c>(&self, cx: &mut M::Context<'c, S>, next: Next<'c, S, M>) -> Result<(), Failure> {
///         let (topic, started) = (cx.topic(), std::time::Instant::now());
///         let handled = next.run(cx).await;
///         println!("{topic} took {:?}, ok: {}", started.elapsed(), handled.is_ok());
///         handled
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no middleware of this group",
    note = "a group with `.state(State)` takes a `Middleware<State>`, a concurrent one a `Middleware<State, Concurrent>`"
)]
pub trait Middleware<S: Sync = (), M: GroupMode = Transactional>: Send + Sync + 'static {
    /// Wraps one delivery. Called for one event of a key at a time; for a batch handler once a run, whose events are
    /// [`Context::events`](crate::Context::events).
    ///
    /// (Where the context's type is spelt out, `'_` will do: `cx: &mut Context<'_, S>, next: Next<'_, S>`.)
    ///
    /// # Errors
    /// As a handler's: what was written for the event is undone, and it is tried again, rejected or snoozed as [`Failure`] says.
    fn deliver<'c>(
        &self,
        cx: &mut M::Context<'c, S>,
        next: Next<'c, S, M>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether a batch handler may be given `next` in one run with `first`, the run's first event. Default: `true`. A panic counts as
    /// `false`.
    fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
        let _ = (first, next);
        true
    }
}

/// The rest of a delivery: further middleware, then the handlers.
pub struct Next<'a, S = (), M = Transactional> {
    middleware: &'a [Arc<dyn Layer<S, M>>],
    routes: &'a [Arc<dyn Route<S, M>>],
}

impl<'a, S: Sync, M: GroupMode> Next<'a, S, M> {
    pub(crate) fn new(middleware: &'a [Arc<dyn Layer<S, M>>], routes: &'a [Arc<dyn Route<S, M>>]) -> Self {
        Self { middleware, routes }
    }

    /// Goes on with the delivery, and answers with what became of it. Handlers of the event run in the order they were bound, until one
    /// fails.
    ///
    /// # Errors
    /// Those of the middleware and handlers further in; a panic of theirs is a [`Failure::Retry`].
    // No `async fn`: whether that is `Send` would be asked anew in every middleware, and denied where the state holds a reference.
    #[expect(clippy::manual_async_fn)]
    pub fn run(self, cx: &mut M::Context<'_, S>) -> impl Future<Output = Result<(), Failure>> + Send {
        async move {
            let Some((layer, middleware)) = self.middleware.split_first() else {
                for route in self.routes {
                    caught(route.call(M::again(cx))).await?;
                }
                return Ok(());
            };
            caught(layer.deliver(M::again(cx), Next { middleware, routes: self.routes })).await
        }
    }
}

impl<S, M> fmt::Debug for Next<'_, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("middleware", &self.middleware.len())
            .field("handlers", &self.routes.len())
            .finish_non_exhaustive()
    }
}

/// A panic is a failure.
async fn caught(delivered: BoxFuture<'_, Result<(), Failure>>) -> Result<(), Failure> {
    AssertUnwindSafe(delivered).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Failure::Retry(Panicked(text.unwrap_or("without a message").to_owned()).into()))
    })
}

/// Middleware that no longer knows its type.
pub(crate) trait Layer<S, M>: Send + Sync {
    fn deliver<'a>(&'a self, cx: M::Context<'a, S>, next: Next<'a, S, M>) -> BoxFuture<'a, Result<(), Failure>>
    where
        S: Sync,
        M: GroupMode;

    fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool;
}

impl<S: Sync, M: GroupMode, T: Middleware<S, M>> Layer<S, M> for T {
    fn deliver<'a>(&'a self, mut cx: M::Context<'a, S>, next: Next<'a, S, M>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { Middleware::deliver(self, &mut cx, next).await })
    }

    fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
        Middleware::together(self, first, next)
    }
}
