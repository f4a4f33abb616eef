use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{check::LogError, claim::Partition, event_box::EventBox, group::touch_sequence};

/// One event of a log, for whoever operates it; made by [`EventBox::event`].
#[derive(Debug, Clone)]
pub struct LoggedEvent {
    log: EventBox,
    sequence: i64,
    actor: Option<String>,
}

/// What became of the wish to erase an event's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Erasure {
    /// Payload and headers are gone.
    Erased {
        /// From how many groups' parked events and dead letters it was removed.
        parked: u64,
    },
    /// They were erased before; nothing was changed.
    AlreadyErased,
    /// The log holds no event of this sequence: there was none, or retention has removed it.
    NoSuchEvent,
}

impl EventBox {
    /// The event of this sequence, whether the log holds it or not.
    pub fn event(&self, sequence: i64) -> LoggedEvent {
        LoggedEvent { log: self.clone(), sequence, actor: None }
    }

    /// The sequence of the event with this id; `None` where the log does not hold it. Where the id was given to several events, the first
    /// that is not erased.
    ///
    /// A delayed event is not in the log until it is due: [`Outbox::cancel`](crate::Outbox::cancel) removes it by its id.
    ///
    /// The log has no index by id: it is read from end to end, in about 0.1 s on two cores for a million small events that are cached.
    ///
    /// # Errors
    /// Where the log's tables are missing, or the database cannot be reached or refuses.
    pub async fn sequence_of(&self, event_id: Uuid) -> Result<Option<i64>, LogError> {
        let database = |error| LogError::from_database(error, self.schema());
        let mut tx = self.begin().await.map_err(database)?;
        let sequence = sqlx::query_scalar!(
            "select sequence from event_box.events where id = $1 order by erased_at is not null, sequence limit 1",
            event_id
        )
        .fetch_optional(self.schema().over(&mut *tx))
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)?;
        Ok(sequence)
    }
}

impl LoggedEvent {
    /// Who does what is done through this handle, as it is recorded. Default: the database's session user.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Erases the event's data, such as a person's: its payload becomes `null` and its headers go, and what groups have parked of it goes
    /// altogether, with the errors that may quote it and the payload that a person may have put in its place. From then on it is passed
    /// over: by those who had yet to be given it, by replays, and by groups that are new. Later events of its key that waited for it go on.
    ///
    /// Deliveries in hand of the event's partition are waited for, so that no transactional handler has the data once this returns. That it
    /// was erased, by whom and when, is recorded in `interventions` with the event's id, topic and key.
    ///
    /// Not erased are: the event's id, topic, time and partition key (do not use a name as a key), what handlers made of it in tables and
    /// elsewhere, what programs logged, and the copies that PostgreSQL keeps: the row's dead version until `vacuum`, the
    /// write-ahead log, standbys that lag behind, and backups.
    ///
    /// ```no_run
    /// # async fn forget(pool: sqlx::PgPool, id: uuid::Uuid) -> Result<(), Box<dyn std::error::Error>> {
    /// use event_box::{Erasure, EventBox};
    ///
    /// let log = EventBox::new(pool);
    /// let Some(sequence) = log.sequence_of(id).await? else { return Ok(()) };
    /// match log.event(sequence).by("alice").erase().await? {
    ///     Erasure::Erased { .. } => println!("erased"),
    ///     Erasure::AlreadyErased => println!("erased before"),
    ///     _ => println!("no longer there"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables are missing, or the database cannot be reached or refuses: then nothing has changed.
    pub async fn erase(&self) -> Result<Erasure, LogError> {
        let database = |error| LogError::from_database(error, self.log.schema());
        let mut connection = self.log.pool().acquire().await.map_err(database)?;
        self.erase_on(&mut connection).await.map_err(database)
    }

    async fn erase_on(&self, connection: &mut PgConnection) -> Result<Erasure, sqlx::Error> {
        let schema = self.log.schema();
        let mut tx = connection.begin_with("begin isolation level read committed").await?;
        let Some(partition) = self.partition(&mut tx).await? else { return Ok(Erasure::NoSuchEvent) };
        sqlx::query!(
            "select partition from event_box.cursors where partition = $1 order by group_name for update",
            partition
        )
        .fetch_all(schema.over(&mut *tx))
        .await?;
        let erased = sqlx::query!(
            r#"with erased as (
                   update event_box.events set payload = 'null', headers = null, erased_at = now()
                   where partition = $1 and sequence = $2 and erased_at is null
                   returning sequence, id, topic, partition_key
               )
               insert into event_box.interventions (actor, action, sequence, event_id, topic, partition_key)
               select coalesce($3, session_user::text), 'erase', sequence, id, topic, partition_key from erased
               returning partition_key"#,
            partition,
            self.sequence,
            self.actor,
        )
        .fetch_optional(schema.over(&mut *tx))
        .await?;
        let Some(erased) = erased else {
            // Somebody was first, while the cursors were waited for.
            let still_there = self.partition(&mut tx).await?.is_some();
            // A claim that is rolled back looks like the death of whoever had it.
            tx.commit().await?;
            return Ok(if still_there { Erasure::AlreadyErased } else { Erasure::NoSuchEvent });
        };
        let groups = sqlx::query_scalar!(
            "delete from event_box.parked where partition = $1 and sequence = $2 returning group_name",
            partition,
            self.sequence,
        )
        .fetch_all(schema.over(&mut *tx))
        .await?;
        let key: Vec<_> = erased.partition_key.into_iter().collect();
        for group in &groups {
            Partition { schema, group, number: partition }.promote(&mut tx, &key).await?;
        }
        touch_sequence(&mut tx, schema).await?;
        tx.commit().await?;
        Ok(Erasure::Erased { parked: groups.len() as u64 })
    }

    /// By primary key, in each partition.
    async fn partition(&self, connection: &mut PgConnection) -> Result<Option<i16>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select e.partition from generate_series(0, 63) as p
               cross join lateral (select partition from event_box.events where partition = p and sequence = $1) as e"#,
            self.sequence
        )
        .fetch_optional(self.log.schema().over(connection))
        .await
    }
}
