use sqlx::{Connection, PgConnection, Postgres, Transaction, pool::PoolConnection};

use crate::{check::LogError, event_box::EventBox, group::lock_maintenance, intervention::Intervention};

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
    /// The event is not parked: it was handled or skipped meanwhile, or never was.
    #[error("event {sequence} is not parked in consumer group `{group}`: `ConsumerGroup::parked` lists what is")]
    NotParked {
        /// The group's name.
        group: String,
        /// The sequence that was asked for.
        sequence: i64,
    },
    /// What was to take a payload's place is no JSON.
    #[error("the payload given for event {sequence} is not JSON: nothing was changed")]
    Payload {
        /// The event's sequence.
        sequence: i64,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The group reads no such topic.
    #[error("consumer group `{group}` does not read topic `{topic}`: `EventBox::groups` lists what it reads")]
    NotSubscribed {
        /// The group's name.
        group: String,
        /// The topic that was asked for.
        topic: String,
    },
    /// The topic is empty, longer than 255 bytes, or holds a NUL.
    #[error("`{topic}` ({} bytes) is not a topic: use 1 to 255 bytes without NUL", topic.len())]
    Topic {
        /// The topic.
        topic: String,
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
        let locked = self.lock_every_cursor(connection).await.map_err(|error| self.database(error))?;
        if locked { Ok(()) } else { Err(self.missing()) }
    }

    /// As [`lock_cursors`](Self::lock_cursors); answers whether there is such a group.
    pub(crate) async fn lock_every_cursor(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let locked = sqlx::query!(
            "select partition from event_box.cursors where group_name = $1 order by partition for update",
            self.name
        )
        .fetch_all(self.log.schema().over(connection))
        .await?;
        Ok(!locked.is_empty())
    }

    /// What this handle did to the group as a whole.
    pub(crate) fn intervention<'a>(
        &'a self,
        action: &'a str,
        topic: Option<&'a str>,
        detail: Option<String>,
    ) -> Intervention<'a> {
        Intervention { actor: self.actor.as_deref(), action, group: Some(&self.name), topic, detail }
    }

    pub(crate) fn missing(&self) -> GroupError {
        GroupError::NoSuchGroup { group: self.name.clone() }
    }

    pub(crate) async fn check_exists(&self, connection: &mut PgConnection) -> Result<(), GroupError> {
        let mut tx = self.begin(connection).await.map_err(|error| self.database(error))?;
        let exists = sqlx::query_scalar!(
            r#"select exists (select from event_box.consumer_groups where name = $1) as "exists!""#,
            self.name
        )
        .fetch_one(self.log.schema().over(&mut *tx))
        .await
        .map_err(|error| self.database(error))?;
        tx.commit().await.map_err(|error| self.database(error))?;
        if exists { Ok(()) } else { Err(self.missing()) }
    }
}
