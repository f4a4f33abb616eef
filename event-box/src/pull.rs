use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Assignment, Batch, BatchError, Ran},
    check::LogError,
    claim::Partition,
    collector::Collector,
    deadline::within,
    event_box::EventBox,
    failpoint::failpoint,
    held::Held,
    look::{look, look_within},
    policy::Policy,
    pull_error::PullError,
    pulled::{PulledBatch, PulledEvent},
    pulse::{Pulse, Server},
    read::ReadError,
    verdict::Verdicts,
};

/// A pull that is bound to its transaction's earlier writes cannot tell how far the log had gone before them; after so many of them a
/// partition's cursor is moved in a transaction of its own.
const BOUND_PULLS: u32 = 32;
/// The longest that what no notification announced goes unnoticed.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// A look is made at least this often while there is nothing to pull.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// A consumer group whose events are pulled, one or a batch at a time, in a transaction of the caller's: commit it and they are
/// delivered, drop it and they come again. Made by [`PullBuilder`](crate::PullBuilder).
///
/// For loops of one's own, such as a forwarder to something that is not a database. Handlers of a [`Consumer`](crate::Consumer) need none
/// of this. Several pullers of one group, in any number of processes, share its work; events of one key are given to one at a time, in
/// order, and stay with its transaction until that ends. A group is either pulled or consumed: a consumer would take a pull that is dropped
/// for a process that died, and go slowly for a while.
///
/// ```no_run
/// # use event_box::{BoxError, Event, PullBuilder, PulledEvent};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(topic = "orders.placed", partition_key = "order_id")]
/// # struct OrderPlaced { order_id: i64 }
/// # async fn send(event: &PulledEvent) -> Result<(), BoxError> { Ok(()) }
/// # async fn forward(pool: sqlx::PgPool) -> Result<(), BoxError> {
/// let pull = PullBuilder::new(&pool, "to-the-warehouse").event::<OrderPlaced>().open().await?;
/// loop {
///     let mut tx = pool.begin().await?;
///     let mut batch = pull.batch(&mut tx, 100).await?;
///     if batch.is_empty() {
///         drop(tx);
///         pull.wait().await?;
///         continue;
///     }
///     while let Some(event) = batch.next() {
///         if let Err(error) = send(&event).await {
///             batch.fail(&mut tx, event, error).await?;
///         }
///     }
///     tx.commit().await?;
/// }
/// # }
/// ```
pub struct Pull {
    pub(crate) log: EventBox,
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) policy: Policy,
    /// Partitions that had work when they were last looked at.
    pub(crate) ready: Mutex<VecDeque<i16>>,
    pub(crate) bound: AtomicU32,
    /// From the first wait on.
    pub(crate) pulse: OnceLock<Arc<Pulse>>,
}

impl Pull {
    /// The next event, in the caller's transaction; `None` where there is none now.
    ///
    /// ```no_run
    /// # async fn one(pool: sqlx::PgPool, pull: event_box::Pull) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// if let Some(event) = pull.next(&mut tx).await? {
    ///     println!("{} {}", event.topic(), String::from_utf8_lossy(event.payload()));
    /// }
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub async fn next(&self, transaction: &mut PgConnection) -> Result<Option<PulledEvent>, PullError> {
        Ok(self.batch(transaction, 1).await?.next())
    }

    /// At most `limit` next events, all of one partition and in order; none where there is none now, or others hold what there is.
    ///
    /// The partition is the transaction's until it ends. What the transaction itself emitted is pulled after its commit. May be called
    /// several times in one transaction, each time when the batch before has been dealt with: what is failed later cannot hold back what was
    /// handed out already; in an order of partitions of its own, so several such transactions may meet others' and pull less,
    /// but never wait for each other.
    ///
    /// Not to be cut off: where a time-out or `select!` drops this call before it has answered, drop the transaction too. Its cursor may have
    /// moved over events that nobody was given.
    ///
    /// # Errors
    /// [`PullError::Isolation`] outside of READ COMMITTED; where the group was removed or runs in another mode, the log is not one that
    /// events can be delivered from, or the database refuses. The transaction is then to be dropped.
    pub async fn batch(&self, transaction: &mut PgConnection, limit: usize) -> Result<PulledBatch, PullError> {
        let schema = self.log.schema();
        let mut pulled = PulledBatch::empty(schema.clone(), self.group.clone(), self.policy.clone());
        if limit == 0 {
            return Ok(pulled);
        }
        if self.bound.load(Ordering::Relaxed) >= BOUND_PULLS {
            self.bound.store(0, Ordering::Relaxed);
            self.tidy().await;
        }
        let mut looked = false;
        loop {
            let next = self.ready().pop_front();
            let Some(number) = next else {
                if looked {
                    return Ok(pulled);
                }
                looked = true;
                let look = look_within(transaction, schema, &self.group, &self.topics).await;
                let look = look.map_err(|error| self.database(error))?.ok_or_else(|| self.removed())?;
                self.ready().extend(look.partitions);
                failpoint!(PullLooked, |error| self.database(error));
                continue;
            };
            let partition = Partition { schema, group: &self.group, number };
            let collector = Collector::new(&self.topics);
            let batch = Batch {
                partition,
                watch: None,
                dispatch: &collector,
                policy: &self.policy,
                shutdown: &CancellationToken::new(),
                assignment: &Assignment {
                    rows: limit.min(100_000),
                    events: limit,
                    verdicts: Verdicts::new(),
                    suspect: None,
                },
                ran: &Ran::default(),
            };
            let Some(done) = batch.run(transaction).await.map_err(|error| self.refused(error))? else {
                let found = sqlx::query_scalar!(r#"select current_setting('transaction_isolation') as "isolation!""#);
                let found =
                    found.fetch_one(schema.over(&mut *transaction)).await.map_err(|error| self.database(error))?;
                if found != "read committed" {
                    self.ready().push_front(number);
                    return Err(PullError::Isolation { found });
                }
                continue;
            };
            if done.more {
                self.ready().push_back(number);
            }
            if done.bound {
                self.bound.fetch_add(1, Ordering::Relaxed);
            }
            let collected = collector.into_collected();
            if !collected.is_empty() {
                pulled.fill(number, collected);
                failpoint!(Pulled, |error| self.database(error));
                return Ok(pulled);
            }
        }
    }

    /// Waits until there may be something to pull: an event was written, a transaction that may have written one has ended, or a retry
    /// is due. Returns at once where there is something already. Uses a connection of the pool, not the caller's transaction.
    ///
    /// # Errors
    /// Where the group was removed, the pool was closed, or the log is not one that events can be delivered from. A database that cannot
    /// be reached is waited for.
    pub async fn wait(&self) -> Result<(), PullError> {
        let join = || self.log.pulse().join(self.log.pool(), self.log.schema(), POLL_INTERVAL);
        let pulse = self.pulse.get_or_init(join);
        let mut server = pulse.server();
        loop {
            if matches!(*server.borrow_and_update(), Server::Standby) {
                return Err(PullError::Log(LogError::Standby));
            }
            let looked = async {
                let mut held = Held::acquire(self.log.pool()).await?;
                let look = look(held.connection()?, self.log.schema(), &self.group, &self.topics).await?;
                held.give_back();
                Ok::<_, sqlx::Error>(look)
            };
            let wait = match within(self.policy.statement_timeout(), looked).await {
                Ok(None) => return Err(self.removed()),
                Ok(Some(look)) if !look.partitions.is_empty() => {
                    match self.pass_over_any(&look.partitions).await {
                        Ok(true) => return Ok(()),
                        // Others hold what there is.
                        Ok(false) => {
                            tokio::time::sleep(POLL_INTERVAL).await;
                            continue;
                        }
                        Err(BatchError::Read(ReadError::Database(_))) => Duration::from_secs(1),
                        Err(error) => return Err(self.refused(error)),
                    }
                }
                Ok(Some(look)) => look.retry_in.unwrap_or(LOOK_ANYWAY).min(LOOK_ANYWAY),
                Err(error) if crate::error::is_missing_table(&error) || matches!(error, sqlx::Error::PoolClosed) => {
                    return Err(self.database(error));
                }
                Err(_) => Duration::from_secs(1),
            };
            let _ = tokio::time::timeout(wait, server.changed()).await;
        }
    }

    /// Answers whether there is something to pull in one of the partitions that nobody holds.
    async fn pass_over_any(&self, partitions: &[i16]) -> Result<bool, BatchError> {
        let mut held = Held::acquire(self.log.pool()).await?;
        for &number in partitions {
            if self.pass_over(held.connection()?, number, 1_000).await? {
                held.give_back();
                return Ok(true);
            }
        }
        held.give_back();
        Ok(false)
    }

    /// Moves the bounds of every cursor that nobody holds: a caller that always emits before it pulls never could, and the looks of such a
    /// group would walk over more and more of the log.
    async fn tidy(&self) {
        // The caller's own connection may be the pool's only one.
        let Some(mut held) = Held::try_acquire(self.log.pool()) else { return };
        for number in 0..64 {
            let tidied = async { self.pass_over(held.connection()?, number, 1).await };
            if let Err(error) = tidied.await {
                tracing::debug!(group = self.group, %error, "a cursor's bounds could not be moved, it is tried again later");
                return;
            }
        }
        held.give_back();
    }

    /// A batch that hands out nothing, in a transaction of its own: its cursor moves over what is not to be pulled, which a caller who is
    /// given nothing and drops its transaction would undo. Answers whether there is something to pull.
    async fn pass_over(&self, connection: &mut PgConnection, number: i16, rows: usize) -> Result<bool, BatchError> {
        let partition = Partition { schema: self.log.schema(), group: &self.group, number };
        let collector = Collector::new(&self.topics);
        let batch = Batch {
            partition,
            watch: None,
            dispatch: &collector,
            // The first payload says enough.
            policy: &Policy { batch_bytes: 1, ..self.policy.clone() },
            shutdown: &CancellationToken::new(),
            assignment: &Assignment { rows, events: 0, verdicts: Verdicts::new(), suspect: None },
            ran: &Ran::default(),
        };
        let passed = async {
            let mut tx = connection.begin_with("begin isolation level read committed").await?;
            let done = batch.run(&mut tx).await?;
            tx.commit().await?;
            Ok(done.is_some_and(|done| done.more))
        };
        within(self.policy.statement_timeout(), passed).await
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<i16>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self, error: sqlx::Error) -> PullError {
        PullError::Log(LogError::from_database(error, self.log.schema()))
    }

    fn removed(&self) -> PullError {
        PullError::GroupRemoved { group: self.group.clone() }
    }

    fn refused(&self, error: BatchError) -> PullError {
        let schema = self.log.schema().name().to_owned();
        match error {
            BatchError::Read(ReadError::Database(error)) | BatchError::Refused(error) => self.database(error),
            BatchError::Read(ReadError::ForeignLog) => PullError::Log(LogError::Foreign { schema }),
            BatchError::Read(ReadError::GroupRemoved) => self.removed(),
            BatchError::Read(ReadError::Mode { stored }) => PullError::Mode { group: self.group.clone(), stored },
            // Nothing is handled here that could be judged.
            BatchError::RunTimedOut { .. } => self.database(sqlx::Error::PoolTimedOut),
            BatchError::Verdict { verdict, .. } => self.database(sqlx::Error::Protocol(verdict.error)),
        }
    }
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull").field("group", &self.group).field("topics", &self.topics).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
