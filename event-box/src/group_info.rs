use std::time::SystemTime;

use crate::{check::LogError, event_box::EventBox, mode::Mode, types::Timestamp};

/// A consumer group of a log, as [`EventBox::groups`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// How it delivers; `None` where that is a mode of a later version of event-box.
    pub mode: Option<Mode>,
    /// What it reads.
    pub topics: Vec<String>,
    /// Since when nothing is delivered to it; `None` where it is not paused.
    pub paused_at: Option<SystemTime>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When a process last ran it, to a minute or so.
    pub seen_at: SystemTime,
}

impl EventBox {
    /// The log's consumer groups, by name.
    ///
    /// ```no_run
    /// # async fn list(log: event_box::EventBox) -> Result<(), event_box::LogError> {
    /// for group in log.groups().await? {
    ///     println!("{} reads {}", group.name, group.topics.join(", "));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables are missing or the database fails.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        let database = |error| LogError::from_database(error, self.schema());
        let mut tx = self.begin().await.map_err(database)?;
        let rows = sqlx::query!(
            r#"select name, mode, topics, paused_at as "paused_at: Timestamp", created_at as "created_at: Timestamp",
                      seen_at as "seen_at: Timestamp"
               from event_box.consumer_groups order by name"#
        )
        .fetch_all(self.schema().over(&mut *tx))
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)?;
        let groups = rows.into_iter().map(|row| GroupInfo {
            name: row.name,
            mode: Mode::parse(&row.mode),
            topics: row.topics,
            paused_at: row.paused_at.map(|at| at.0),
            created_at: row.created_at.0,
            seen_at: row.seen_at.0,
        });
        Ok(groups.collect())
    }
}
