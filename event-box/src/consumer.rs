use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    check::{LogError, check},
    consumer_builder::{ConsumerBuilder, Empty},
    deadline::within,
    event_box::EventBox,
    failure::chain,
    group::{self, Start},
    held::Held,
    mode::Mode,
    policy::Policy,
    process::Process,
    report::Hook,
    router::{Dispatch, DispatchDetached},
    run_error::RunError,
    scheduler::Scheduler,
    upkeep::Upkeep,
    worker::Shared,
};

/// Gives a consumer group's events to its handlers. Any number of processes may run the same group: they share its work.
///
/// ```no_run
/// use event_box::{BoxError, Consumer, Context, Event};
/// use serde::{Deserialize, Serialize};
/// use tokio_util::sync::CancellationToken;
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "orders.placed", partition_key = "order_id")]
/// struct OrderPlaced { order_id: i64, total_cents: i64 }
///
/// async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), BoxError> {
///     sqlx::query("insert into reservations (order_id) values ($1)").bind(event.order_id).execute(&mut *cx).await?;
///     Ok(())
/// }
///
/// # async fn serve(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let shutdown = CancellationToken::new();
/// let consumer = Consumer::builder(pool, "warehouse").on(reserve_stock).build()?;
/// consumer.run(shutdown).await?; // or run_until_signal()
/// # Ok(()) }
/// ```
pub struct Consumer {
    pub(crate) log: EventBox,
    pub(crate) group: String,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    /// The same handlers, where the group is concurrent.
    pub(crate) detached: Option<Arc<dyn DispatchDetached>>,
    pub(crate) settings: Settings,
}

/// For statements outside of batches.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the builder was told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) start: Start,
    pub(crate) workers: usize,
    /// Handlers at once, where the group is concurrent.
    pub(crate) concurrency: Option<usize>,
    pub(crate) poll_interval: Duration,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) retention: Option<Duration>,
    pub(crate) dead_letter_retention: Option<Duration>,
    pub(crate) dead_letter_hook: Option<Hook>,
    pub(crate) policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start: Start::Beginning,
            workers: 4,
            concurrency: None,
            poll_interval: Duration::from_millis(100),
            shutdown_timeout: Duration::from_secs(25),
            retention: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            dead_letter_retention: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            dead_letter_hook: None,
            policy: Policy::default(),
        }
    }
}

impl Settings {
    pub(crate) fn concurrent(&mut self, handlers: usize) {
        self.concurrency = Some(handlers);
        self.policy.mode = Mode::Concurrent;
    }

    /// "No limit", as people write it, in numbers that the database and the clock can bear.
    pub(crate) fn clamp(&mut self) {
        let fortnight = Duration::from_secs(14 * 24 * 60 * 60);
        let policy = &mut self.policy;
        policy.batch_size = policy.batch_size.min(100_000);
        policy.batch_bytes = policy.batch_bytes.min(1 << 30);
        for duration in [&mut policy.handler_timeout, &mut self.poll_interval, &mut self.shutdown_timeout] {
            *duration = (*duration).min(fortnight);
        }
    }
}

impl Consumer {
    /// A consumer of the group `group` of a log: a pool, or an [`EventBox`] that several groups share.
    ///
    /// A group is made when it first runs; it is known by its name alone, 1 to 255 bytes.
    pub fn builder(log: impl Into<EventBox>, group: impl Into<String>) -> ConsumerBuilder<(), Empty> {
        ConsumerBuilder::new(log.into(), group.into())
    }

    /// Handles events until the token is cancelled. Then no further event starts, what runs has the shutdown time-out to finish, and the
    /// answer is `Ok(())`.
    ///
    /// A database that cannot be reached is waited for, with backoff and one line in the log.
    ///
    /// # Errors
    /// What waiting will not mend: see [`RunError`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        // A child, so that one group's end by an error is not its neighbours'.
        let shutdown = shutdown.child_token();
        let Some(started) = shutdown.run_until_cancelled(self.start()).await else { return Ok(()) };
        started?;
        let Self { log, group, dispatch, detached, settings } = self;
        tracing::info!(group, topics = ?dispatch.topics(), workers = settings.workers, "consuming");
        let pulse = log.pulse().join(log.pool(), log.schema(), settings.poll_interval);
        // Ends with this call, also where that is dropped.
        let mut beside = JoinSet::new();
        let upkeep = Upkeep {
            log: log.clone(),
            group: group.clone(),
            retention: settings.retention,
            dead_letter_retention: settings.dead_letter_retention,
            warned_of: HashSet::new(),
        };
        beside.spawn(upkeep.run(shutdown.clone()));
        let process = Process::new(log.clone(), group.clone());
        let (policy, dead_letter_hook) = (settings.policy, settings.dead_letter_hook);
        let shared = Arc::new(Shared { log, group, dispatch, policy, dead_letter_hook, process, shutdown });
        let concurrent = detached.zip(settings.concurrency);
        let scheduler = Scheduler::new(shared.clone(), pulse, settings.workers, settings.poll_interval, concurrent);
        let ended = scheduler.run(settings.shutdown_timeout).await;
        tracing::info!(group = shared.group, "stopped consuming");
        ended
    }

    /// Handles events until the process is told to stop, by SIGINT (Ctrl-C) or SIGTERM; then as [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run), and where signals cannot be listened for.
    pub async fn run_until_signal(self) -> Result<(), RunError> {
        let shutdown = CancellationToken::new();
        let signal = crate::signal::stop_signal().map_err(RunError::Signal)?;
        let running = self.run(shutdown.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = signal => shutdown.cancel(),
        }
        running.await
    }

    /// Checks the log and makes the group, waiting for a database that is not there yet.
    async fn start(&self) -> Result<(), RunError> {
        let backoff = Backoff::exponential(Duration::from_millis(100), 2.0, Duration::from_secs(10));
        for attempt in 1.. {
            let error = match self.try_start().await {
                Err(RunError::Log(LogError::Database(error))) if is_passing(&error) => error,
                ended => return ended,
            };
            if attempt == 1 {
                tracing::warn!(
                    group = self.group,
                    error = chain(&error),
                    "the database is not there yet, waiting for it"
                );
            }
            tokio::time::sleep(backoff.after(attempt)).await;
        }
        Ok(())
    }

    pub(crate) async fn try_start(&self) -> Result<(), RunError> {
        let (schema, topics, mode) = (self.log.schema(), self.dispatch.topics(), self.settings.policy.mode);
        let mut held = Held::acquire(self.log.pool()).await.map_err(LogError::Database)?;
        let connection = held.connection().map_err(LogError::Database)?;
        within(PATIENCE, async { Ok(check(connection, schema).await) }).await.map_err(LogError::Database)??;
        let registered = group::register(connection, schema, &self.group, topics, mode, self.settings.start);
        let stored = within(PATIENCE, registered).await.map_err(|error| LogError::from_database(error, schema))?;
        held.give_back();
        if stored != mode.text() {
            return Err(RunError::Mode { group: self.group.clone(), stored, own: mode });
        }
        Ok(())
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.group)
            .field("topics", &self.dispatch.topics())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The server cannot be reached, is starting up, shutting down, full or read-only, or another transaction was in the way.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["25006", "25P03"].contains(&&*code)
                || ["08", "40", "53", "55P03", "57"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}
