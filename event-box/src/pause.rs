use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    group::touch_sequence,
};

impl ConsumerGroup {
    /// Has nothing more delivered to the group, in any process, until [`resume`](Self::resume). Batches in hand are finished: this does
    /// not wait for them. A group that is paused stays so.
    ///
    /// The log keeps what the group was not given, and the group's processes keep running. Leaves an intervention `pause`.
    ///
    /// ```no_run
    /// # async fn quiet(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// let group = log.group("warehouse").by("ann");
    /// group.pause().await?;
    /// // …
    /// group.resume().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where there is no such group, or the database fails.
    pub async fn pause(&self) -> Result<(), GroupError> {
        self.set_paused(true).await
    }

    /// Has events delivered to the group again, from where it stood. One that is not paused stays as it is. Leaves an intervention
    /// `resume`.
    ///
    /// # Errors
    /// Where there is no such group, or the database fails.
    pub async fn resume(&self) -> Result<(), GroupError> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), GroupError> {
        let mut connection = self.connect().await?;
        let schema = self.log.schema();
        let changed = async {
            let mut tx = self.begin(&mut connection).await?;
            let changed = sqlx::query!(
                r#"update event_box.consumer_groups set paused_at = case when $2 then clock_timestamp() end
                   where name = $1 and (paused_at is not null) <> $2"#,
                self.name,
                paused,
            )
            .execute(schema.over(&mut *tx))
            .await?
            .rows_affected();
            if changed > 0 {
                let action = if paused { "pause" } else { "resume" };
                self.intervention(action, None, None).record(&mut tx, schema).await?;
                touch_sequence(&mut tx, schema).await?;
            }
            tx.commit().await?;
            Ok(changed)
        };
        match changed.await.map_err(|error| self.database(error))? {
            0 => self.check_exists(&mut connection).await,
            _ => Ok(()),
        }
    }
}
