use serde::de::IgnoredAny;
use sqlx::PgConnection;

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    group::touch_sequence,
    selection::{Chosen, Selection},
    types::RawJson,
};

/// What [`ConsumerGroup::requeue`] or [`ConsumerGroup::edit`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "it says whether order was broken"]
#[non_exhaustive]
pub struct Requeued {
    /// Events that are due now.
    pub events: u64,
    /// Those of them whose key had gone on without them: they are handled after later events of their key.
    pub out_of_order: u64,
}

impl ConsumerGroup {
    /// Has parked events tried again at once.
    ///
    /// A dead letter starts anew, with all its attempts; its error stays to be read. It goes before whatever of its key is still parked.
    /// But where its key had gone on, it is handled after later events of its key: [`Requeued::out_of_order`] counts these. An event that
    /// is being retried or snoozed is due at once and keeps its count of attempts. One that waits behind another of its key, or for a
    /// process with a handler, stays as it is and is not counted.
    ///
    /// Waits for the batches that the partitions concerned have in hand, each as long as a handler may take, and holds new ones back
    /// until all are had. Every event leaves an intervention `requeue`.
    ///
    /// ```no_run
    /// use event_box::{EventBox, GroupError, Selection};
    ///
    /// # async fn mended(log: EventBox) -> Result<(), GroupError> {
    /// let requeued = log.group("warehouse").by("ann").requeue(Selection::Topic("orders.placed".to_owned())).await?;
    /// println!("{} requeued, {} of them after later events of their key", requeued.events, requeued.out_of_order);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::NotParked`] where a single event is asked for that is not; where there is no such group, or the database fails.
    pub async fn requeue(&self, which: Selection) -> Result<Requeued, GroupError> {
        self.make_due(&which, None).await
    }

    /// Puts a payload, a JSON text, in the place of the log's for this group alone, and has the event tried again at once, as
    /// [`requeue`](Self::requeue) does. The log's row and what other groups are given stay as they are.
    ///
    /// It works on any parked event; one that waits is given the new payload when its turn comes. Leaves an intervention `edit`, which
    /// does not hold the payload.
    ///
    /// ```no_run
    /// # async fn mend(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// let requeued = log.group("warehouse").by("ann").edit(4711, r#"{"order_id": 7, "total_cents": 995}"#).await?;
    /// assert_eq!(requeued.events, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::Payload`] where it is no JSON, [`GroupError::NotParked`] where the event is not parked; where there is no such group,
    /// or the database fails.
    pub async fn edit(&self, sequence: i64, payload: &str) -> Result<Requeued, GroupError> {
        serde_json::from_str::<IgnoredAny>(payload).map_err(|source| GroupError::Payload { sequence, source })?;
        self.make_due(&Selection::Event(sequence), Some(payload)).await
    }

    async fn make_due(&self, which: &Selection, payload: Option<&str>) -> Result<Requeued, GroupError> {
        let mut connection = self.connect().await?;
        let done = async {
            let mut tx = self.begin(&mut connection).await?;
            let chosen = self.choose(&mut tx, which).await?;
            let requeued = self.requeue_chosen(&mut tx, &chosen, payload).await?;
            tx.commit().await?;
            Ok((requeued, chosen.len()))
        };
        let (requeued, found) = done.await.map_err(|error| self.database(error))?;
        self.check_found(&mut connection, which, found).await?;
        Ok(requeued)
    }

    async fn requeue_chosen(
        &self,
        connection: &mut PgConnection,
        chosen: &[Chosen],
        payload: Option<&str>,
    ) -> Result<Requeued, sqlx::Error> {
        if chosen.is_empty() {
            return Ok(Requeued::default());
        }
        let schema = self.log.schema();
        let row = sqlx::query_file!(
            "src/requeue.sql",
            self.name,
            &chosen.iter().map(|chosen| chosen.partition).collect::<Vec<_>>(),
            &chosen.iter().map(|chosen| chosen.sequence).collect::<Vec<_>>(),
            payload.map(|payload| RawJson(payload.as_bytes().to_vec())) as _,
            self.actor,
            if payload.is_some() { "edit" } else { "requeue" },
        )
        .fetch_one(schema.over(&mut *connection))
        .await?;
        touch_sequence(connection, schema).await?;
        Ok(Requeued { events: row.events as u64, out_of_order: row.out_of_order as u64 })
    }
}
