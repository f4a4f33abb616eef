use std::time::SystemTime;

use crate::{
    check::LogError,
    consumer_group::{ConsumerGroup, GroupError},
    event_box::EventBox,
    types::Timestamp,
};

/// Who did what to a group or to one of its events, and when: a row of the table `interventions`. Payloads are never recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterventionRecord {
    /// Ascends in the order of recording.
    pub id: i64,
    /// When.
    pub at: SystemTime,
    /// Who: what [`ConsumerGroup::by`] named, the database's session user, or `event-box` itself.
    pub actor: String,
    /// What was done, such as `requeue`, `skip`, `edit`, `expire`, `pause` or `remove_topic`.
    pub action: String,
    /// To which group.
    pub group: Option<String>,
    /// To which event, by its place in the log; `None` where it was done to the group as a whole.
    pub sequence: Option<i64>,
    /// The event's id.
    pub event_id: Option<uuid::Uuid>,
    /// The topic, of the event or by itself.
    pub topic: Option<String>,
    /// The event's partition key.
    pub partition_key: Option<String>,
    /// What else there is to say of it.
    pub detail: Option<String>,
}

impl EventBox {
    /// The last so many interventions of all groups, newest first.
    ///
    /// # Errors
    /// Where the log's tables are missing or the database fails.
    pub async fn interventions(&self, limit: u32) -> Result<Vec<InterventionRecord>, LogError> {
        self.list_interventions(None, limit).await
    }

    async fn list_interventions(&self, group: Option<&str>, limit: u32) -> Result<Vec<InterventionRecord>, LogError> {
        let database = |error| LogError::from_database(error, self.schema());
        let mut tx = self.begin().await.map_err(database)?;
        let rows = sqlx::query!(
            r#"select id, at as "at: Timestamp", actor, action, group_name, sequence, event_id, topic, partition_key, detail
               from event_box.interventions where $1::text is null or group_name = $1
               order by id desc limit $2"#,
            group,
            i64::from(limit),
        )
        .fetch_all(self.schema().over(&mut *tx))
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)?;
        let records = rows.into_iter().map(|row| InterventionRecord {
            id: row.id,
            at: row.at.0,
            actor: row.actor,
            action: row.action,
            group: row.group_name,
            sequence: row.sequence,
            event_id: row.event_id,
            topic: row.topic,
            partition_key: row.partition_key,
            detail: row.detail,
        });
        Ok(records.collect())
    }
}

impl ConsumerGroup {
    /// The last so many interventions in this group, newest first; also of one that was removed.
    ///
    /// ```no_run
    /// # async fn list(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// for record in log.group("warehouse").interventions(20).await? {
    ///     println!("{} did {} to {:?}", record.actor, record.action, record.sequence);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables are missing or the database fails.
    pub async fn interventions(&self, limit: u32) -> Result<Vec<InterventionRecord>, GroupError> {
        Ok(self.log.list_interventions(Some(&self.name), limit).await?)
    }
}
