use sqlx::{Connection, PgConnection, Postgres, Transaction, pool::PoolConnection};

use crate::{check::LogError, event_box::EventBox, group::lock_maintenance};

/// One consumer group of a log, for whoever operates it; made by [`EventBox::group`].
///
/// What changes something leaves a record of who did it and when in the table `interventions`: name the person with [`by`](Self::by).
#[derive(Debug, Clone)]
pub struct ConsumerGroup {
    pub(crate) log: EventBox,
    pub(crate) name: String,
    pub(crate) actor: Option<String>,
}

/// A group could not be asked, or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The log knows no such group.
    #[error(
        "there is no consumer group `{group}`: a group is made when its consumer first runs, `EventBox::groups` lists them"
    )]
    NoSuchGroup {
        /// The name that was asked for.
        group: String,
    },
    /// The log's tables are missing or not such as this code knows, or the database could not be asked.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl EventBox {
    /// The consumer group of this name, whether it exists or not.
    pub fn group(&self, name: impl Into<String>) -> ConsumerGroup {
        ConsumerGroup { log: self.clone(), name: name.into(), actor: None }
    }
}

impl ConsumerGroup {
    /// Who does what is done through this handle, as it is recorded. Default: the database's session user.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn database(&self, error: sqlx::Error) -> GroupError {
        LogError::from_database(error, self.log.schema()).into()
    }

    pub(crate) async fn connect(&self) -> Result<PoolConnection<Postgres>, GroupError> {
        self.log.pool().acquire().await.map_err(|error| self.database(error))
    }

    /// A transaction in read committed, whatever the database's default: what it reads after a lock must be newer than the lock.
    pub(crate) async fn begin<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
        connection.begin_with("begin isolation level read committed").await
    }

    /// Under the lock that retention, replay and the making and removing of groups exclude each other by.
    pub(crate) async fn begin_maintenance<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
        let mut tx = self.begin(connection).await?;
        lock_maintenance(&mut tx, self.log.schema()).await?;
        Ok(tx)
    }

    /// Locks the group's cursors, waiting for the batches in hand: everything that touches parked events or cursors does this first, and
    /// reads in a later statement.
    pub(crate) async fn lock_cursors(&self, connection: &mut PgConnection) -> Result<(), GroupError> {
        let locked = sqlx::query!(
            "select partition from event_box.cursors where group_name = $1 order by partition for update",
            self.name
        )
        .fetch_all(self.log.schema().over(connection))
        .await
        .map_err(|error| self.database(error))?;
        if locked.is_empty() {
            return Err(GroupError::NoSuchGroup { group: self.name.clone() });
        }
        Ok(())
    }
}
