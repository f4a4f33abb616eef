use std::fmt;

use crate::consumer_group::{ConsumerGroup, GroupError};

/// How a group's handlers share the transaction of their batch. Default: transactional.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// What a failed handler wrote is undone by a savepoint; its neighbours of the batch go on.
    #[default]
    Transactional,
    /// No savepoints: where an event fails, the batch is rolled back, those before it run again, and it is parked.
    AllOrNothing,
    /// Handlers that wait for others, many at once and in no transaction: at least once
    /// ([`ConsumerBuilder::concurrent`](crate::ConsumerBuilder::concurrent)).
    Concurrent,
}

impl Mode {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::AllOrNothing => "all_or_nothing",
            Self::Concurrent => "concurrent",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Transactional, Self::AllOrNothing, Self::Concurrent].into_iter().find(|mode| mode.text() == text)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl ConsumerGroup {
    /// Has the group deliver in another mode from its next batches on. Waits for the batches in hand, each as long as a handler may take.
    /// Leaves an intervention `set_mode` where it was another.
    ///
    /// # Errors
    /// Where there is no such group, or the database fails.
    pub async fn set_mode(&self, mode: Mode) -> Result<(), GroupError> {
        let mut connection = self.connect().await?;
        let changed = async {
            let mut tx = self.begin(&mut connection).await?;
            let exists = self.lock_every_cursor(&mut tx).await?;
            let changed = sqlx::query!(
                "update event_box.consumer_groups set mode = $2 where name = $1 and mode <> $2",
                self.name,
                mode.text(),
            )
            .execute(self.log.schema().over(&mut *tx))
            .await?
            .rows_affected();
            if changed > 0 {
                let detail = Some(mode.to_string());
                self.intervention("set_mode", None, detail).record(&mut tx, self.log.schema()).await?;
            }
            tx.commit().await?;
            Ok(exists)
        };
        let exists = changed.await.map_err(|error| self.database(error))?;
        if exists { Ok(()) } else { Err(self.missing()) }
    }
}
