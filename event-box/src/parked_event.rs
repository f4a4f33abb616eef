use std::time::SystemTime;

use sqlx::Connection;
use uuid::Uuid;

use crate::{
    claim::parse,
    consumer_group::{ConsumerGroup, GroupError},
    parked_filter::ParkedFilter,
    parked_state::ParkedState,
    types::Timestamp,
};

/// An event that a group could not be given, or not yet, as [`ConsumerGroup::parked`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedEvent {
    /// Its place in the log, by which it is requeued, skipped or edited.
    pub sequence: i64,
    /// `None` where somebody deleted its row from the log.
    pub id: Option<Uuid>,
    /// Its topic.
    pub topic: String,
    /// Its version; `None` where somebody deleted its row from the log.
    pub version: Option<i16>,
    /// Its partition key.
    pub partition_key: Option<String>,
    /// Why it is not handled now.
    pub state: ParkedState,
    /// Failed attempts so far.
    pub attempts: u32,
    /// Processes that died of it.
    pub deaths: u32,
    /// What the last attempt that failed said.
    pub error: Option<String>,
    /// When it was parked.
    pub parked_at: SystemTime,
    /// When it first failed; `None` where it never did.
    pub first_failed_at: Option<SystemTime>,
    /// When it last failed; `None` where it never did.
    pub last_failed_at: Option<SystemTime>,
    /// When it is tried next; `None` where that is not known.
    pub due_at: Option<SystemTime>,
    /// When it became a dead letter.
    pub dead_at: Option<SystemTime>,
    /// A payload given by [`ConsumerGroup::edit`] stands in the place of the log's.
    pub edited: bool,
}

impl ConsumerGroup {
    /// The group's parked events, in sequence order, as far as the filter lets them through. Read only, without a lock.
    ///
    /// Its cost grows with the number of parked events that the filter has to pass over; that of dead letters only with theirs.
    ///
    /// ```no_run
    /// use event_box::{EventBox, GroupError, ParkedFilter, ParkedState};
    ///
    /// # async fn list(log: EventBox) -> Result<(), GroupError> {
    /// let retrying = ParkedFilter::new().states([ParkedState::Retrying]).topic("orders.placed").limit(20);
    /// for event in log.group("warehouse").parked(&retrying).await? {
    ///     println!("{}: attempt {} failed: {}", event.sequence, event.attempts, event.error.unwrap_or_default());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where there is no such group, or the database fails.
    pub async fn parked(&self, filter: &ParkedFilter) -> Result<Vec<ParkedEvent>, GroupError> {
        let states = filter.state_texts();
        let mut connection = self.connect().await?;
        let listed = async {
            let begin = "begin isolation level read committed read only; set local plan_cache_mode = force_custom_plan; set local jit = off";
            let mut tx = connection.begin_with(begin).await?;
            let rows = sqlx::query_file!(
                "src/parked_event.sql",
                self.name,
                filter.after,
                states.as_deref(),
                filter.is_dead(),
                filter.topic,
                filter.partition_key,
                filter.limit,
            )
            .fetch_all(self.log.schema().over(&mut *tx))
            .await?;
            tx.commit().await?;
            let events = rows.into_iter().map(|row| {
                let time = |at: Option<Timestamp>| at.map(|at| at.0);
                Ok(ParkedEvent {
                    sequence: row.sequence,
                    id: row.id,
                    topic: row.topic,
                    version: row.version,
                    partition_key: row.partition_key,
                    state: parse(&row.state)?,
                    attempts: row.attempts as u32,
                    deaths: row.deaths as u32,
                    error: row.error,
                    parked_at: row.parked_at.0,
                    first_failed_at: time(row.first_failed_at),
                    last_failed_at: time(row.last_failed_at),
                    due_at: time(row.due_at),
                    dead_at: time(row.dead_at),
                    edited: row.edited,
                })
            });
            events.collect::<Result<Vec<_>, sqlx::Error>>()
        };
        let events = listed.await.map_err(|error| self.database(error))?;
        if events.is_empty() {
            self.check_exists(&mut connection).await?;
        }
        Ok(events)
    }

    /// The group's first 100 dead letters, in sequence order; [`parked`](Self::parked) with [`ParkedFilter::dead_letters`] gives the others.
    ///
    /// # Errors
    /// As [`parked`](Self::parked).
    pub async fn dead_letters(&self) -> Result<Vec<ParkedEvent>, GroupError> {
        self.parked(&ParkedFilter::dead_letters()).await
    }
}
