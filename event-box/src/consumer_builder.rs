use std::{collections::BTreeMap, fmt, marker::PhantomData, sync::Arc, time::Duration};

use crate::{
    backoff::Backoff,
    consumer::{Consumer, Settings},
    context::Context,
    event::Event,
    event_box::EventBox,
    failure::Failure,
    group::Start,
    handler::{FunctionRoute, Handle, Handler, Route, StructRoute},
    mode::Mode,
    policy::TopicPolicy,
    report::{DeadLetter, Hook},
    router::Router,
};

/// A builder without handlers yet: the state can still be set.
#[derive(Debug)]
pub struct Empty;

/// A builder with handlers, which take its state.
#[derive(Debug)]
pub struct Routed;

/// Holds of [`Empty`] alone.
#[diagnostic::on_unimplemented(
    message = "the state comes before the handlers, which take it",
    label = "has handlers already",
    note = "call `.state(..)` before `.on(..)` and `.handle(..)`"
)]
pub trait WithoutHandlers {}

impl WithoutHandlers for Empty {}

/// What a group needs beside its workers' connections: the poll, upkeep, and what is recorded outside of a batch after a death. The
/// listener has a connection outside of the pool.
const SHARED_CONNECTIONS: usize = 3;

type Routes<S> = BTreeMap<&'static str, Vec<Arc<dyn Route<S>>>>;

/// Settings and handlers of a [`Consumer`]; made by [`Consumer::builder`].
#[must_use = "nothing is consumed until it is built and run"]
pub struct ConsumerBuilder<S = (), R = Routed> {
    log: EventBox,
    group: String,
    state: S,
    routes: Routes<S>,
    settings: Settings,
    handlers: PhantomData<R>,
}

/// What the builder was told cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nothing to do.
    #[error("consumer group `{group}` has no handler: call `.on(handler)` before `.build()`")]
    NoHandler {
        /// The group's name.
        group: String,
    },
    /// The group's name is empty or too long.
    #[error("`{group}` ({} bytes) cannot name a consumer group: use 1 to 255 bytes without NUL", group.len())]
    GroupName {
        /// The name.
        group: String,
    },
    /// A handler's event has a topic that the log would refuse.
    #[error("`{topic}` ({} bytes) is not a topic: use 1 to 255 bytes without NUL", topic.len())]
    Topic {
        /// The topic.
        topic: &'static str,
    },
    /// A number or duration that must be above zero is zero.
    #[error("`{setting}` is zero: it must be above")]
    Zero {
        /// The builder's method.
        setting: &'static str,
    },
    /// The pool is too small: workers would wait for each other's connections.
    #[error(
        "the pool allows {max_connections} connections, {workers} workers need {}: raise `max_connections`, or lower `.workers(..)`",
        workers.saturating_add(SHARED_CONNECTIONS)
    )]
    PoolTooSmall {
        /// What the pool allows.
        max_connections: u32,
        /// The workers asked for.
        workers: usize,
    },
}

impl ConsumerBuilder<(), Empty> {
    pub(crate) fn new(log: EventBox, group: String) -> Self {
        Self { log, group, state: (), routes: Routes::new(), settings: Settings::default(), handlers: PhantomData }
    }
}

impl<S: Send + Sync + 'static, R> ConsumerBuilder<S, R> {
    /// What handlers share: clients, settings. They reach it by [`Context::state`]. Default: `()`. Comes before the handlers, which name
    /// its type.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> ConsumerBuilder<T, Empty>
    where
        R: WithoutHandlers,
    {
        let Self { log, group, settings, .. } = self;
        ConsumerBuilder { log, group, state, routes: Routes::new(), settings, handlers: PhantomData }
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
        H: for<'a> AsyncFn(E, &'a mut Context<'a, S>) -> Result<(), Err>, // S: as given to .state(..), else ()
        H: for<'a> Handler<'a, E, Context<'a, S>> + Send + Sync + 'static, // no captures: share by .state(..)
    {
        self.bind(E::TOPICS, Arc::new(FunctionRoute(handler, PhantomData)))
    }

    /// Binds a struct that implements [`Handle`], as [`on`](Self::on) binds a function.
    pub fn handle<H: Handle<S>>(self, handler: H) -> ConsumerBuilder<S> {
        self.bind(<H::Event as Event>::TOPICS, Arc::new(StructRoute(handler)))
    }

    fn bind(self, topics: &[&'static str], route: Arc<dyn Route<S>>) -> ConsumerBuilder<S> {
        let Self { log, group, state, mut routes, settings, .. } = self;
        for topic in topics {
            routes.entry(topic).or_default().push(route.clone());
        }
        ConsumerBuilder { log, group, state, routes, settings, handlers: PhantomData }
    }

    /// A new group starts with the oldest event still in the log. The default. A group that exists goes on where it stands.
    pub fn from_beginning(mut self) -> Self {
        self.settings.start = Start::Beginning;
        self
    }

    /// A new group starts with what is committed from now on. A group that exists goes on where it stands.
    pub fn from_now(mut self) -> Self {
        self.settings.start = Start::Now;
        self
    }

    /// How many partitions this process works on at once, each with a connection and a transaction of its own. Default: 4. The log has 64
    /// partitions: more workers than that, over all processes, stand idle.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// The most events one transaction delivers, up to 100,000. Default: 1,000; 50 where handlers write SQL, as every event then holds a savepoint.
    pub fn batch_size(mut self, events: usize) -> Self {
        self.settings.policy.batch_size = events;
        self
    }

    /// Payload bytes after which no further event joins a batch; the first always does. At most 1 GiB. Default: 8 MiB (8,388,608).
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.policy.batch_bytes = bytes;
        self
    }

    /// How often the log is polled for what no notification announced, at the latest. Default: 100 ms; at most 14 days. Groups that share an [`EventBox`]
    /// poll as often as the most eager of them.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// How long an event's handlers may take, all together; then their work is undone, and it counts as a failed attempt. Default: 30 s;
    /// at most 14 days.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.policy.handler_timeout = timeout;
        self
    }

    /// After how many failed attempts an event becomes a dead letter and its key goes on without it. Default: 15.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.policy.max_attempts = attempts;
        self
    }

    /// The same for events of one type. Default: that of the group.
    pub fn max_attempts_for<E: Event>(mut self, attempts: u32) -> Self {
        self.for_topics::<E>(|policy| policy.max_attempts = Some(attempts));
        self
    }

    /// How long a failed event waits before it is tried again. Default: from 1 s to 4 h, see [`Backoff`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.policy.backoff = backoff;
        self
    }

    /// The same for events of one type. Default: that of the group.
    pub fn backoff_for<E: Event>(mut self, backoff: Backoff) -> Self {
        self.for_topics::<E>(|policy| policy.backoff = Some(backoff.clone()));
        self
    }

    fn for_topics<E: Event>(&mut self, change: impl Fn(&mut TopicPolicy)) {
        for topic in E::TOPICS {
            change(self.settings.policy.topics.entry(topic).or_default());
        }
    }

    /// After how many deaths of its process an event becomes a dead letter. Default: 3.
    ///
    /// Counted are the deaths that are proven to be the event's: after a process has ended in the middle of a batch (abort, out of
    /// memory, SIGKILL), the events it may have had in hand go one a transaction, each noted before it begins, until the next death
    /// names the one to blame.
    pub fn max_deaths(mut self, deaths: u32) -> Self {
        self.settings.policy.max_deaths = deaths;
        self
    }

    /// Later events of a dead letter's key wait until a person decides: requeues, edits or skips it ([`EventBox::group`]). Default: the key
    /// goes on without it.
    pub fn hold_keys(mut self) -> Self {
        self.settings.policy.hold_keys = true;
        self
    }

    /// What is to be done with each new dead letter, such as telling somebody; called after the commit that made it one. A process that
    /// dies in between does not call it: the list of dead letters is the truth. May take as long as a handler may; its worker waits for it.
    ///
    /// ```no_run
    /// # use event_box::{Consumer, ConsumerBuilder, DeadLetter};
    /// # fn with_hook(builder: ConsumerBuilder) -> ConsumerBuilder {
    /// builder.on_dead_letter(async |letter: DeadLetter| eprintln!("{} gave up {}: {}", letter.group, letter.id, letter.error))
    /// # }
    /// ```
    pub fn on_dead_letter<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.settings.dead_letter_hook = Some(Hook::new(hook));
        self
    }

    /// Once a minute removes dead letters that are older than this, so that retention may remove their events; each leaves a record in the
    /// table `interventions`. Those that hold their key stay. `None` keeps all. Default: 30 days.
    pub fn dead_letter_retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.settings.dead_letter_retention = retention.into();
        self
    }

    /// Delivers without savepoints, for handlers that only write SQL: where an event fails, its whole batch is undone and run again
    /// without it, so handlers may see an event more than once before it is committed. Faster where little fails. All processes of a
    /// group must agree ([`RunError::Mode`](crate::RunError::Mode)). Default: a savepoint for each event that writes.
    pub fn all_or_nothing(mut self) -> Self {
        self.settings.policy.mode = Mode::AllOrNothing;
        self
    }

    /// How long running handlers may go on after shutdown was asked for; then they are rolled back. Default: 25 s; at most 14
    /// days.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// Once a minute removes events that every group has been given and that are older than this; `None` leaves that to
    /// [`prune`](crate::prune). Default: 7 days.
    pub fn retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.settings.retention = retention.into();
        self
    }

    /// Checks the settings; the log itself is looked at when the consumer runs.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Consumer, BuildError> {
        let Self { log, group, state, routes, mut settings, .. } = self;
        settings.clamp();
        if group.is_empty() || group.len() > 255 || group.contains('\0') {
            return Err(BuildError::GroupName { group });
        }
        if routes.is_empty() {
            return Err(BuildError::NoHandler { group });
        }
        if let Some(topic) = routes.keys().find(|topic| topic.is_empty() || topic.len() > 255 || topic.contains('\0')) {
            return Err(BuildError::Topic { topic });
        }
        let policy = &settings.policy;
        let zero = [
            ("workers", settings.workers == 0),
            ("batch_size", policy.batch_size == 0),
            ("batch_bytes", policy.batch_bytes == 0),
            ("poll_interval", settings.poll_interval.is_zero()),
            ("handler_timeout", policy.handler_timeout.is_zero()),
            ("max_attempts", policy.max_attempts == 0),
            ("max_attempts_for", policy.topics.values().any(|topic| topic.max_attempts == Some(0))),
            ("max_deaths", policy.max_deaths == 0),
        ];
        if let Some((setting, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(BuildError::Zero { setting });
        }
        let max_connections = log.pool().options().get_max_connections();
        if (max_connections as usize) < settings.workers.saturating_add(SHARED_CONNECTIONS) {
            return Err(BuildError::PoolTooSmall { max_connections, workers: settings.workers });
        }
        Ok(Consumer { log, group, dispatch: Arc::new(Router::new(state, routes)), settings })
    }
}

impl<S, R> fmt::Debug for ConsumerBuilder<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("group", &self.group)
            .field("topics", &self.routes.keys())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
