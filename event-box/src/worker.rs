use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Assignment, Batch, BatchError, Done, Ran, Watch},
    claim::Partition,
    deadline::within,
    event_box::EventBox,
    failpoint::failpoint,
    failure::chain,
    held::{Held, Kept},
    look::{Look, look},
    policy::Policy,
    process::Process,
    read::ReadError,
    report::{Hook, report},
    router::Dispatch,
    verdict::{Charge, Verdict},
};

/// What every worker of a group needs.
pub(crate) struct Shared {
    pub(crate) log: EventBox,
    pub(crate) group: String,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) policy: Policy,
    pub(crate) dead_letter_hook: Option<Hook>,
    pub(crate) process: Process,
    pub(crate) shutdown: CancellationToken,
}

/// A connection to go on with, if it is still good, and what came of it.
pub(crate) type Answer<T> = (Option<Kept>, T);

impl Shared {
    pub(crate) async fn connect(&self, kept: Option<Kept>) -> Result<Held, sqlx::Error> {
        match kept {
            Some(kept) => Ok(kept.into()),
            None => Held::acquire(self.log.pool()).await,
        }
    }

    /// One look at the group's partitions.
    pub(crate) async fn look(&self, kept: Option<Kept>) -> Answer<Result<Option<Look>, sqlx::Error>> {
        let mut held = match self.connect(kept).await {
            Ok(held) => held,
            Err(error) => return (None, Err(error)),
        };
        let looked = async { look(held.connection()?, self.log.schema(), &self.group, self.dispatch.topics()).await };
        match within(self.policy.statement_timeout(), looked).await {
            Ok(look) => (Some(held.keep()), Ok(look)),
            Err(error) => (None, Err(error)),
        }
    }

    /// One batch of one partition, in a transaction of its own; `None` where another worker holds the partition.
    pub(crate) async fn batch(
        &self,
        kept: Option<Kept>,
        partition: i16,
        assignment: &Assignment,
    ) -> Answer<Result<Option<Done>, BatchError>> {
        let mut held = match self.connect(kept).await {
            Ok(held) => held,
            Err(error) => return (None, Err(error.into())),
        };
        let ran = Ran::default();
        match self.deliver(&mut held, partition, assignment, &ran).await {
            Ok(done) => {
                self.process.ended(partition);
                if let Some(done) = &done {
                    let timeout = self.policy.handler_timeout;
                    report(&self.group, &done.failures, self.dead_letter_hook.as_ref(), timeout).await;
                }
                (Some(held.keep()), Ok(done))
            }
            Err(error) => {
                drop(held);
                self.process.lived(partition);
                let error = blame(error, &ran);
                // Only then: a transaction that has ended may have left its server's process to somebody else, behind a pooler.
                let left_running = match &error {
                    BatchError::Verdict { verdict, .. } => verdict.left_running,
                    other => matches!(other, BatchError::RunTimedOut { .. }),
                };
                if left_running {
                    self.terminate(&ran).await;
                }
                (None, Err(error))
            }
        }
    }

    async fn deliver(
        &self,
        held: &mut Held,
        partition: i16,
        assignment: &Assignment,
        ran: &Ran,
    ) -> Result<Option<Done>, BatchError> {
        let connection = held.connection()?;
        let schema = self.log.schema();
        let partition = Partition { schema, group: &self.group, number: partition };
        // A handler that takes too long is ended by the client.
        let begin = AssertSqlSafe(self.begin(self.policy.handler_timeout + Duration::from_secs(15))).into_sql_str();
        let mut tx = within(self.policy.statement_timeout(), connection.begin_with(begin)).await?;
        failpoint!(Begun);
        let batch = self.as_batch(partition, assignment, ran);
        let done = batch.run(&mut tx).await?;
        failpoint!(Committing);
        within(self.policy.statement_timeout(), tx.commit()).await?;
        failpoint!(Committed);
        Ok(done)
    }

    pub(crate) fn as_batch<'a>(
        &'a self,
        partition: Partition<'a>,
        assignment: &'a Assignment,
        ran: &'a Ran,
    ) -> Batch<'a> {
        Batch {
            partition,
            watch: Some(Watch { process: &self.process, pool: self.log.pool() }),
            dispatch: &*self.dispatch,
            policy: &self.policy,
            shutdown: &self.shutdown,
            assignment,
            ran,
        }
    }

    /// A worker whose host or network died frees its partition within a minute: the server ends a transaction that stands idle for longer
    /// than any handler may take, and a connection whose client stopped answering.
    pub(crate) fn begin(&self, idle: Duration) -> String {
        // Our own statements need time too.
        let statement = self.policy.handler_timeout.max(Duration::from_secs(30)).as_millis();
        let idle = idle.as_millis();
        format!(
            "begin isolation level read committed; set local statement_timeout = {statement}; \
             set local idle_in_transaction_session_timeout = {idle}; set local tcp_keepalives_idle = 20; \
             set local tcp_keepalives_interval = 5; set local tcp_keepalives_count = 5; set local tcp_user_timeout = 45000"
        )
    }

    /// The statement of a handler that ran out of time would go on in the server, and hold its partition.
    pub(crate) async fn terminate(&self, ran: &Ran) {
        let backend = ran.backend.load(Ordering::Relaxed);
        let ended = async {
            let mut held = Held::acquire(self.log.pool()).await?;
            let mut tx = held.connection()?.begin().await?;
            sqlx::query!("select pg_terminate_backend($1) as ended", backend)
                .fetch_one(self.log.schema().over(&mut *tx))
                .await?;
            tx.commit().await?;
            held.give_back();
            Ok::<_, sqlx::Error>(())
        };
        if let Err(error) = within(self.policy.statement_timeout(), ended).await {
            tracing::warn!(%error, backend, "the statement of a handler that ran out of time could not be ended");
        }
    }
}

/// Where the server refused what handlers wrote only after they had answered (a deferred constraint at the commit, a role without
/// privileges), the event that ran alone is to blame; among several it is not known which.
pub(crate) fn blame(error: BatchError, ran: &Ran) -> BatchError {
    let BatchError::Read(ReadError::Database(error)) = error else { return error };
    let code = error.as_database_error().and_then(|error| error.code());
    // Connection, transactions in each other's way, resources, operator, the server's disk, the server's own bugs.
    let passing = |code: &str| ["08", "40", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class));
    match (code.as_deref(), ran.events.load(Ordering::Relaxed)) {
        (None, _) | (_, 0) => error.into(),
        (Some(code), _) if passing(code) => error.into(),
        (_, 1) => BatchError::Verdict {
            sequence: ran.last.load(Ordering::Relaxed),
            verdict: Verdict::on_ended_transaction(&error).unwrap_or_else(|| Verdict {
                error: format!("refused after the handler had answered: {}", chain(&error)),
                charge: Charge::Attempt,
                left_running: false,
            }),
        },
        _ => BatchError::Refused(error),
    }
}
