use std::{collections::HashSet, time::Duration};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    consumer::PATIENCE, deadline::within, event_box::EventBox, expiry, failure::chain, group, held::Held, retention,
};

/// What a running group does once a minute: says that it is alive, removes what is old, and names what needs a person.
pub(crate) struct Upkeep {
    pub(crate) log: EventBox,
    pub(crate) group: String,
    pub(crate) retention: Option<Duration>,
    pub(crate) dead_letter_retention: Option<Duration>,
    /// Said once each.
    pub(crate) warned_of: HashSet<String>,
}

impl Upkeep {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut minutes = tokio::time::interval(Duration::from_secs(60));
        while shutdown.run_until_cancelled(minutes.tick()).await.is_some() {
            let kept = async {
                let mut held = Held::acquire(self.log.pool()).await?;
                self.keep(held.connection()?).await?;
                held.give_back();
                Ok::<_, sqlx::Error>(())
            };
            if let Err(error) = kept.await {
                tracing::debug!(
                    group = self.group,
                    error = chain(&error),
                    "upkeep failed, it is tried again in a minute"
                );
            }
        }
    }

    async fn keep(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (schema, group) = (self.log.schema().clone(), self.group.clone());
        within(PATIENCE, group::touch(connection, &schema, &group)).await?;
        for (topic, events) in within(PATIENCE, expiry::without_handler(connection, &schema, &group)).await? {
            if self.warned_of.insert(format!("topic {topic}")) {
                tracing::warn!(
                    group,
                    topic,
                    events,
                    "events have waited for more than a day for a process with a handler for their topic: deploy one, or call \
                     `EventBox::group(\"{group}\").remove_topic(\"{topic}\")`"
                );
            }
        }
        if let Some(age) = self.dead_letter_retention {
            // Before retention, which may then remove their events.
            let removed = within(PATIENCE, expiry::expire_dead_letters(connection, &schema, &group, age)).await?;
            if removed > 0 {
                tracing::warn!(group, removed, "dead letters were removed because of their age");
            }
        }
        if let Some(retention) = self.retention {
            let pruned = retention::prune_on(connection, &schema, retention).await?;
            if pruned.events > 0 {
                tracing::debug!(events = pruned.events, "old events removed");
            }
            within(PATIENCE, self.name_abandoned(connection, retention)).await?;
        }
        Ok(())
    }

    async fn name_abandoned(&mut self, connection: &mut PgConnection, retention: Duration) -> Result<(), sqlx::Error> {
        for (group, days) in retention::abandoned(connection, self.log.schema(), retention).await? {
            if self.warned_of.insert(format!("group {group}")) {
                tracing::warn!(
                    group,
                    days,
                    "this group was not run for days and holds old events back: run it, or call `EventBox::group(\"{group}\").remove()`"
                );
            }
        }
        Ok(())
    }
}
