use std::sync::{Arc, Mutex, PoisonError};

use event_box::{EventBox, Pull, PullBuilder, PullError, PulledEvent};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::orders::OrderPlaced;

/// Stands in for event-box's relay, which is not there yet: publishes what one group is given, a batch in a transaction.
///
/// A batch whose transaction does not commit is published again, as by any relay: consumers of the broker look at the event's id.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pool: PgPool,
    pull: Pull,
    sink: Sink,
}

/// Small, so that the last one is soon through.
const BATCH: usize = 20;

impl Forwarder {
    pub(crate) async fn open(log: &EventBox, group: &str, sink: Sink) -> Result<Self, PullError> {
        let pull = PullBuilder::new(log, group).event::<OrderPlaced>().open().await?;
        Ok(Self { pool: log.pool().clone(), pull, sink })
    }

    /// Until the token is cancelled: the batch in hand is finished.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let mut tx = self.pool.begin().await?;
            // Not within `select!`: a pull that is cut off may have moved on already.
            let mut batch = self.pull.batch(&mut tx, BATCH).await?;
            if batch.is_empty() {
                drop(tx);
                stop.run_until_cancelled(self.pull.wait()).await.transpose()?;
                continue;
            }
            while let Some(event) = batch.next() {
                if let Err(error) = self.sink.publish(&event).await {
                    batch.fail(&mut tx, event, error).await?;
                }
            }
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Stands in for a broker: remembers the keys of what was published, for longer than the service lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<Uuid>>>);

impl Sink {
    async fn publish(&self, event: &PulledEvent) -> Result<(), event_box::BoxError> {
        let order = event.decode::<OrderPlaced>()?;
        // A broker's acknowledgement takes a moment too.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(order.order_id);
        Ok(())
    }

    pub(crate) fn published(&self) -> Vec<Uuid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
