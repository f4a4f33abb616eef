use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::{
    claim::Partition,
    consumer_group::{ConsumerGroup, GroupError},
    group::touch_sequence,
    schema::Schema,
    selection::{Chosen, Selection},
};

impl ConsumerGroup {
    /// Forgets parked events: the group is never given them, and the first of those that wait behind each for its key is due at once.
    /// Answers how many it were.
    ///
    /// The log keeps the events, and other groups are given them. Waits for the batches in hand as [`requeue`](Self::requeue) does. Every
    /// event leaves an intervention `skip`.
    ///
    /// ```no_run
    /// use event_box::{EventBox, GroupError, Selection};
    ///
    /// # async fn give_up(log: EventBox) -> Result<(), GroupError> {
    /// let skipped = log.group("warehouse").by("ann").skip(Selection::Key("order-7".to_owned())).await?;
    /// println!("{skipped} dead letters are gone");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::NotParked`] where a single event is asked for that is not; where there is no such group, or the database fails.
    pub async fn skip(&self, which: Selection) -> Result<u64, GroupError> {
        let mut connection = self.connect().await?;
        let done = async {
            let mut tx = self.begin(&mut connection).await?;
            let chosen = self.choose(&mut tx, &which).await?;
            let removal = Removal { action: "skip", actor: self.actor.as_deref() };
            let skipped = removal.carry_out(&mut tx, self.log.schema(), &self.name, &chosen).await?;
            tx.commit().await?;
            Ok((skipped, chosen.len()))
        };
        let (skipped, found) = done.await.map_err(|error| self.database(error))?;
        self.check_found(&mut connection, &which, found).await?;
        Ok(skipped)
    }
}

/// Why parked events go, as it is recorded of each.
pub(crate) struct Removal<'a> {
    pub(crate) action: &'static str,
    /// The database's session user where nobody is named.
    pub(crate) actor: Option<&'a str>,
}

impl Removal<'_> {
    /// Under the lock of their partitions.
    pub(crate) async fn carry_out(
        &self,
        connection: &mut PgConnection,
        schema: &Schema,
        group: &str,
        chosen: &[Chosen],
    ) -> Result<u64, sqlx::Error> {
        if chosen.is_empty() {
            return Ok(0);
        }
        let removed = sqlx::query!(
            r#"with removed as (
                   delete from event_box.parked as p
                   using unnest($2::smallint[], $3::bigint[]) as place (partition, sequence)
                   where p.group_name = $1 and p.partition = place.partition and p.sequence = place.sequence
                   returning p.partition, p.sequence, p.topic, p.partition_key
               )
               insert into event_box.interventions (actor, action, group_name, sequence, event_id, topic, partition_key)
               select coalesce($4, session_user::text), $5, $1, removed.sequence, e.id, removed.topic, removed.partition_key
               from removed
               left join event_box.events as e on e.partition = removed.partition and e.sequence = removed.sequence
               order by removed.sequence"#,
            group,
            &chosen.iter().map(|chosen| chosen.partition).collect::<Vec<_>>(),
            &chosen.iter().map(|chosen| chosen.sequence).collect::<Vec<_>>(),
            self.actor,
            self.action,
        )
        .execute(schema.over(&mut *connection))
        .await?
        .rows_affected();
        let mut keys = BTreeMap::<i16, BTreeSet<&String>>::new();
        for chosen in chosen {
            keys.entry(chosen.partition).or_default().extend(&chosen.partition_key);
        }
        for (number, keys) in keys {
            let keys: Vec<_> = keys.into_iter().cloned().collect();
            Partition { schema, group, number }.promote(connection, &keys).await?;
        }
        touch_sequence(connection, schema).await?;
        Ok(removed)
    }
}
