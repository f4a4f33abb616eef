use sqlx::PgConnection;

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    group::{add_topics, touch_sequence},
    selection::Chosen,
    skip::Removal,
};

impl ConsumerGroup {
    /// Has the group read a topic from now on: every event whose transaction commits after this call, and what lies ahead of the group's
    /// position. Answers whether it did not read it before.
    ///
    /// A consumer that starts with a handler for a topic adds it by itself. Where no process has one, the topic's events are parked until
    /// one has. Leaves an intervention `add_topic`.
    ///
    /// # Errors
    /// [`GroupError::Topic`] where it cannot be a topic; where there is no such group, or the database fails.
    pub async fn add_topic(&self, topic: impl Into<String>) -> Result<bool, GroupError> {
        let topic = topic.into();
        if topic.is_empty() || topic.len() > 255 || topic.contains('\0') {
            return Err(GroupError::Topic { topic });
        }
        let mut connection = self.connect().await?;
        let added = async {
            let mut tx = self.begin_maintenance(&mut connection).await?;
            let subscribed = self.reads(&mut tx, &topic).await?;
            if subscribed == Some(false) {
                let (schema, actor) = (self.log.schema(), self.actor.as_deref());
                add_topics(&mut tx, schema, &self.name, &[topic], actor, None).await?;
            }
            tx.commit().await?;
            Ok(subscribed)
        };
        let subscribed = added.await.map_err(|error| self.database(error))?;
        subscribed.map(|subscribed| !subscribed).ok_or_else(|| self.missing())
    }

    /// Has the group read a topic no more. What of it is parked goes, each event into an intervention `remove_topic`, and those that wait
    /// behind them for their keys are due. Answers how many parked events went.
    ///
    /// What of the topic the group passes from now on it will never be given. Remove the handler first: a consumer that starts with a
    /// handler for the topic, an old process too, adds it again. Waits for the batches in hand, each as long as a handler may take.
    ///
    /// ```no_run
    /// # async fn drop_topic(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// let dropped = log.group("warehouse").by("ann").remove_topic("orders.archived").await?;
    /// println!("{dropped} parked events are gone, `interventions` names them");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::NotSubscribed`] where the group does not read it; where there is no such group, or the database fails.
    pub async fn remove_topic(&self, topic: &str) -> Result<u64, GroupError> {
        let mut connection = self.connect().await?;
        let removed = async {
            let mut tx = self.begin_maintenance(&mut connection).await?;
            self.lock_every_cursor(&mut tx).await?;
            let subscribed = self.reads(&mut tx, topic).await?;
            let mut dropped = 0;
            if subscribed == Some(true) {
                dropped = self.drop_topic(&mut tx, topic).await?;
            }
            tx.commit().await?;
            Ok((subscribed, dropped))
        };
        match removed.await.map_err(|error| self.database(error))? {
            (Some(true), dropped) => Ok(dropped),
            (Some(false), _) => Err(GroupError::NotSubscribed { group: self.name.clone(), topic: topic.to_owned() }),
            (None, _) => Err(self.missing()),
        }
    }

    /// `None` where there is no such group.
    async fn reads(&self, connection: &mut PgConnection, topic: &str) -> Result<Option<bool>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select $2 = any(topics) as "reads!" from event_box.consumer_groups where name = $1"#,
            self.name,
            topic
        )
        .fetch_optional(self.log.schema().over(connection))
        .await
    }

    /// Under the lock of all cursors.
    async fn drop_topic(&self, connection: &mut PgConnection, topic: &str) -> Result<u64, sqlx::Error> {
        let schema = self.log.schema();
        sqlx::query!(
            "update event_box.consumer_groups set topics = array_remove(topics, $2) where name = $1",
            self.name,
            topic
        )
        .execute(schema.over(&mut *connection))
        .await?;
        let parked = sqlx::query_as!(
            Chosen,
            "select partition, sequence, partition_key from event_box.parked where group_name = $1 and topic = $2 order by sequence",
            self.name,
            topic
        )
        .fetch_all(schema.over(&mut *connection))
        .await?;
        let detail = Some(format!("{} parked events went with it", parked.len()));
        self.intervention("remove_topic", Some(topic), detail).record(connection, schema).await?;
        let removal = Removal { action: "remove_topic", actor: self.actor.as_deref() };
        removal.carry_out(connection, schema, &self.name, &parked).await?;
        touch_sequence(connection, schema).await?;
        Ok(parked.len() as u64)
    }
}
