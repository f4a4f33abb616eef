use std::{fmt, marker::PhantomData, sync::Arc};

use crate::{
    batch_route::BatchRoute,
    consumer::Settings,
    context::Context,
    delivery::Delivery,
    detached::Detached,
    event::Event,
    event_box::EventBox,
    failure::Failure,
    group_mode::{Concurrent, GroupMode, Transactional},
    handler::{BatchAnswer, FunctionRoute, Handle, Handler, Route, StructRoute},
    middleware::{Layer, Middleware},
    router::Routes,
};

mod build;
mod settings;

pub use build::BuildError;

/// A builder without handlers yet: what they take can still be chosen.
#[derive(Debug)]
pub struct Empty;

/// A builder with handlers or middleware.
#[derive(Debug)]
pub struct Routed;

/// Holds of [`Empty`] alone.
#[diagnostic::on_unimplemented(
    message = "the state and the mode come before the handlers, which take what they give",
    label = "has handlers already",
    note = "call `.state(..)` and `.concurrent(..)` before `.on(..)`, `.handle(..)`, `.on_batch(..)` and `.middleware(..)`"
)]
pub trait WithoutHandlers {}

impl WithoutHandlers for Empty {}

/// Settings and handlers of a [`Consumer`](crate::Consumer); made by [`Consumer::builder`](crate::Consumer::builder).
#[must_use = "nothing is consumed until it is built and run"]
pub struct ConsumerBuilder<S = (), R = Routed, M = Transactional> {
    log: EventBox,
    group: String,
    state: S,
    routes: Routes<S, M>,
    middleware: Vec<Arc<dyn Layer<S, M>>>,
    /// Topics with a batch handler and another one beside it.
    shared: Vec<&'static str>,
    batch_handlers: usize,
    settings: Settings,
    handlers: PhantomData<R>,
}

impl ConsumerBuilder<(), Empty> {
    pub(crate) fn new(log: EventBox, group: String) -> Self {
        Self::empty(log, group, (), Settings::default())
    }
}

impl<S, M> ConsumerBuilder<S, Empty, M> {
    fn empty(log: EventBox, group: String, state: S, settings: Settings) -> Self {
        let (routes, middleware, shared) = (Routes::new(), Vec::new(), Vec::new());
        Self { log, group, state, routes, middleware, shared, batch_handlers: 0, settings, handlers: PhantomData }
    }
}

impl<S: Send + Sync + 'static, R> ConsumerBuilder<S, R> {
    /// For handlers that wait for others: HTTP, mail. Up to so many run at once in this process, over as many claimed partitions as it
    /// takes: events of different keys side by side, those of one key in order, one at a time.
    ///
    /// There is no transaction for them to share, and so their context is a [`Detached`](crate::Detached), which is no executor, and every event is
    /// handled *at least* once. The group's cursor advances when all events of a claim are done; one that failed is parked like anywhere
    /// else. It is a mode of the whole group: all its processes must agree ([`RunError::Mode`](crate::RunError::Mode)).
    ///
    /// [`workers`](Self::workers) are here the connections that hold claims, each with as many partitions as it takes to keep all
    /// handlers busy. Comes before the handlers, which name the context's type. Zero is refused by [`build`](Self::build).
    ///
    /// ```no_run
    /// # use event_box::{BoxError, Consumer, Detached, Event};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # struct OrderPlaced { order_id: i64 }
    /// async fn confirm(event: OrderPlaced, cx: &mut Detached<'_>) -> Result<(), BoxError> {
    ///     println!("mail for order {}, idempotency key {}", event.order_id, cx.id());
    ///     Ok(())
    /// }
    ///
    /// # fn build(pool: sqlx::PgPool) -> Result<Consumer, event_box::BuildError> {
    /// Consumer::builder(pool, "mail").concurrent(64).on(confirm).build()
    /// # }
    /// ```
    pub fn concurrent(self, handlers: usize) -> ConsumerBuilder<S, Empty, Concurrent>
    where
        R: WithoutHandlers,
    {
        let Self { log, group, state, mut settings, .. } = self;
        settings.concurrent(handlers);
        ConsumerBuilder::empty(log, group, state, settings)
    }

    /// Binds a function or closure, `async fn(event, &mut Context<'_, S>) -> Result<(), Error>`, to the events of its first argument's
    /// type.
    ///
    /// Several handlers may take the same type: they run in the order they were bound, in one transaction, and where one fails what all of
    /// them wrote for the event is undone.
    ///
    /// An async closure cannot capture: its future would borrow from it. What handlers share goes through [`state`](ConsumerBuilder::state), or into
    /// the fields of a [`Handle`].
    ///
    /// ```no_run
    /// # use event_box::{Consumer, Context, Event};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # struct OrderPlaced { order_id: i64 }
    /// # fn build(pool: sqlx::PgPool) -> Result<Consumer, event_box::BuildError> {
    /// Consumer::builder(pool, "audit")
    ///     .on(async |event: OrderPlaced, cx: &mut Context<'_>| {
    ///         sqlx::query("insert into audit (order_id) values ($1)").bind(event.order_id).execute(cx).await?;
    ///         Ok::<_, sqlx::Error>(())
    ///     })
    ///     .build()
    /// # }
    /// ```
    pub fn on<E, H, Err>(self, handler: H) -> ConsumerBuilder<S>
    where
        E: Event,
        Err: Into<Failure>,
        // The compiler quotes these lines, and so what they say at their end, where a handler does not fit.
        H: for<'a> AsyncFn(E, &'a mut Context<'a, S>) -> Result<(), Err>, // S: as given to .state(..), else (); for `Detached`: .concurrent(n)
        H: for<'a> Handler<'a, E, Context<'a, S>> + Send + Sync + 'static, // no captures: share by .state(..)
    {
        self.bind(E::TOPICS, Arc::new(FunctionRoute(handler, PhantomData)), None)
    }

    /// Binds a struct that implements [`Handle`], as [`on`](Self::on) binds a function.
    pub fn handle<H: Handle<S>>(self, handler: H) -> ConsumerBuilder<S> {
        self.bind(<H::Event as Event>::TOPICS, Arc::new(StructRoute(handler)), None)
    }

    /// Binds a batch handler, `async fn(Vec<Delivery<Event>>, &mut Context<'_, S>) -> Result<(), Error>`, for handlers that write many
    /// rows at once.
    ///
    /// It is given runs: the longest stretch of its events, in the log's order, that it may take without overtaking anything of their
    /// keys. A run ends where an event for another handler shares a key with it, where [`Middleware::together`] says so, and with the
    /// batch ([`batch_size`](Self::batch_size), [`batch_bytes`](Self::batch_bytes)). All of a run shares one savepoint, and the handler
    /// time-out.
    ///
    /// Where it fails, what it wrote is undone and the run is cut in halves, until the event that fails stands alone and is parked; the rest
    /// goes through. Or it names the events that it did not handle, `Ok(vec![delivery.failed(error)])`, and what it wrote for the others
    /// stays. An event with others of its key behind it in the run costs a second call, without them. [`Failure::Snooze`] snoozes the whole
    /// run. So a handler may see an event several times before it is committed. Events that were parked come alone.
    ///
    /// A topic with a batch handler has no other handler in the group ([`BuildError::BatchHandlerShares`]).
    ///
    /// ```no_run
    /// # use event_box::{Consumer, Context, Delivery, Event};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # struct OrderPlaced { order_id: i64 }
    /// async fn index(orders: Vec<Delivery<OrderPlaced>>, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
    ///     let ids: Vec<_> = orders.iter().map(|order| order.event.order_id).collect();
    ///     sqlx::query("insert into order_index select * from unnest($1::bigint[])").bind(ids).execute(cx).await?;
    ///     Ok(())
    /// }
    ///
    /// # fn build(pool: sqlx::PgPool) -> Result<Consumer, event_box::BuildError> {
    /// Consumer::builder(pool, "index").on_batch(index).build()
    /// # }
    /// ```
    pub fn on_batch<E, H, T, Err>(mut self, handler: H) -> ConsumerBuilder<S>
    where
        E: Event,
        T: BatchAnswer,
        Err: Into<Failure>,
        H: for<'a> AsyncFn(Vec<Delivery<E>>, &'a mut Context<'a, S>) -> Result<T, Err>, // S: as given to .state(..), else ()
        H: for<'a> Handler<'a, Vec<Delivery<E>>, Context<'a, S>> + Send + Sync + 'static, // no captures: share by .state(..)
    {
        self.batch_handlers += 1;
        let number = Some(self.batch_handlers);
        self.bind(E::TOPICS, Arc::new(BatchRoute(handler, PhantomData)), number)
    }
}

/// Handlers of a [concurrent](ConsumerBuilder::concurrent) group.
impl<S: Send + Sync + 'static, R> ConsumerBuilder<S, R, Concurrent> {
    /// Binds a function or closure, `async fn(event, &mut Detached<'_, S>) -> Result<(), Error>`, to the events of its first argument's
    /// type.
    ///
    /// Several handlers may take the same type: they run in the order they were bound, and where one fails all of them are called again. A closure
    /// cannot capture, as for other groups.
    pub fn on<E, H, Err>(self, handler: H) -> ConsumerBuilder<S, Routed, Concurrent>
    where
        E: Event,
        Err: Into<Failure>,
        // The compiler quotes these lines, and so what they say at their end, where a handler does not fit.
        H: for<'a> AsyncFn(E, &'a mut Detached<'a, S>) -> Result<(), Err>, // S: as given to .state(..), else (); for `Context`: no .concurrent(n)
        H: for<'a> Handler<'a, E, Detached<'a, S>> + Send + Sync + 'static, // no captures: share by .state(..)
    {
        self.bind(E::TOPICS, Arc::new(FunctionRoute(handler, PhantomData)), None)
    }

    /// Binds a struct that implements [`Handle`], as [`on`](Self::on) binds a function.
    pub fn handle<H: Handle<S, Concurrent>>(self, handler: H) -> ConsumerBuilder<S, Routed, Concurrent> {
        self.bind(<H::Event as Event>::TOPICS, Arc::new(StructRoute(handler)), None)
    }
}

impl<S: Send + Sync + 'static, R, M: GroupMode> ConsumerBuilder<S, R, M> {
    /// What handlers share: clients, settings. They reach it by [`Context::state`] and
    /// [`Detached::state`](crate::Detached::state). Default: `()`. Comes before the handlers, which name its type.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> ConsumerBuilder<T, Empty, M>
    where
        R: WithoutHandlers,
    {
        let Self { log, group, settings, .. } = self;
        ConsumerBuilder::empty(log, group, state, settings)
    }

    /// Wraps every delivery of the group: see [`Middleware`]. What is added first is outermost.
    pub fn middleware<T: Middleware<S, M>>(mut self, middleware: T) -> ConsumerBuilder<S, Routed, M> {
        self.middleware.push(Arc::new(middleware));
        self.routed()
    }

    fn bind(
        mut self,
        topics: &[&'static str],
        route: Arc<dyn Route<S, M>>,
        batch: Option<usize>,
    ) -> ConsumerBuilder<S, Routed, M> {
        for topic in topics {
            let handlers = self.routes.entry(topic).or_default();
            if !handlers.routes.is_empty() && (batch.is_some() || handlers.batch.is_some()) {
                self.shared.push(topic);
            }
            handlers.routes.push(route.clone());
            handlers.batch = batch;
        }
        self.routed()
    }

    fn routed(self) -> ConsumerBuilder<S, Routed, M> {
        let Self { log, group, state, routes, middleware, shared, batch_handlers, settings, .. } = self;
        ConsumerBuilder {
            log,
            group,
            state,
            routes,
            middleware,
            shared,
            batch_handlers,
            settings,
            handlers: PhantomData,
        }
    }
}

impl<S, R, M> fmt::Debug for ConsumerBuilder<S, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("group", &self.group)
            .field("topics", &self.routes.keys())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
