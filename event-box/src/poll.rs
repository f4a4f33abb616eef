use sqlx::{Connection, PgConnection};

use crate::{claim::parse, mutation, schema::Schema, snapshot::Snapshot};

/// What one poll saw: how far the log's sequence went, then which transactions were open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Poll {
    /// Counts the times that memory of the server became worthless: a lost connection, a sequence that went back.
    pub(crate) epoch: u64,
    pub(crate) last_value: i64,
    pub(crate) snapshot: Snapshot,
    /// The next transaction id to be handed out, as of a statement after the one that read `last_value`.
    pub(crate) next_xid: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PollError {
    #[error("the event log could not be polled")]
    Database(#[from] sqlx::Error),
    /// A standby's snapshots list nothing open.
    #[error("the server is a standby")]
    Standby,
}

/// Two tiny statements, each in a transaction of its own where there is no pooler: no lock, no xid.
pub(crate) async fn poll(connection: &mut PgConnection, schema: &Schema, epoch: u64) -> Result<Poll, PollError> {
    if !schema.is_behind_pooler() {
        return ask(connection, schema, epoch).await;
    }
    // One of its own for each poll: the next xid stands still within it.
    let mut tx = connection.begin_with("begin isolation level read committed").await?;
    let poll = ask(&mut tx, schema, epoch).await?;
    tx.commit().await?;
    Ok(poll)
}

async fn ask(connection: &mut PgConnection, schema: &Schema, epoch: u64) -> Result<Poll, PollError> {
    let last_value = sqlx::query_scalar!(
        r#"select coalesce(pg_sequence_last_value('event_box.events_sequence_seq'), 0) as "last_value!""#
    )
    .fetch_one(schema.over(&mut *connection))
    .await?;
    let row = sqlx::query!(
        r#"select pg_is_in_recovery() as "standby!", s::text as "snapshot!",
                  pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) as "next_xid!"
           from (select pg_current_snapshot() as s) as now"#
    )
    .fetch_one(schema.over(connection))
    .await?;
    if row.standby {
        return Err(PollError::Standby);
    }
    Ok(Poll { epoch, last_value, snapshot: parse(&row.snapshot)?, next_xid: row.next_xid as u64 })
}

impl Poll {
    /// Whether there may be something to deliver that was not when `self` was polled: the sequence moved, or a transaction that could have
    /// taken a sequence by then has ended.
    pub(crate) fn is_outdated_by(&self, later: &Poll) -> bool {
        later.epoch != self.epoch
            || later.last_value != self.last_value
            || (later.snapshot.saw_end_since(&self.snapshot, self.next_xid)
                && !mutation::is("idle-by-last-value-alone"))
    }

    /// Whether what `later` saw beyond `self` is at most so many steps of the sequence, and no end of a transaction that could have taken an
    /// earlier one.
    pub(crate) fn differs_by(&self, later: &Poll, steps: u64) -> bool {
        let as_before = Poll { last_value: self.last_value, ..later.clone() };
        !self.is_outdated_by(&as_before)
            && later.last_value.checked_sub(self.last_value).is_some_and(|moved| (0..=steps as i64).contains(&moved))
    }

    /// Keeps the older bound where the sequence has not moved: whoever wrote up to it had an xid below that already. Otherwise every
    /// transaction of an application that emits nothing would cause a look.
    pub(crate) fn after(mut self, earlier: &Poll) -> Self {
        if self.epoch == earlier.epoch && self.last_value == earlier.last_value {
            self.next_xid = earlier.next_xid;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(last_value: i64, snapshot: &str, next_xid: u64) -> Poll {
        Poll { epoch: 0, last_value, snapshot: snapshot.parse().unwrap(), next_xid }
    }

    #[test]
    fn a_moved_sequence_or_an_ended_writer_disturbs() {
        let settled = poll(7, "10:12:10", 13);
        assert!(!settled.is_outdated_by(&poll(7, "10:12:10", 13)));
        assert!(settled.is_outdated_by(&poll(8, "10:12:10", 13)));
        assert!(settled.is_outdated_by(&poll(7, "11:12:", 13)));
        assert!(settled.is_outdated_by(&Poll { epoch: 1, ..settled.clone() }));
    }

    #[test]
    fn what_was_announced_explains_as_many_steps() {
        let settled = poll(7, "10:13:10", 13);
        assert!(settled.differs_by(&poll(9, "10:15:10", 16), 2));
        assert!(!settled.differs_by(&poll(9, "10:15:10", 16), 1));
        assert!(!settled.differs_by(&poll(9, "12:15:", 16), 2), "10 has ended, and may have written earlier");
        assert!(!settled.differs_by(&poll(6, "10:15:10", 16), 2), "the sequence went back");
    }

    #[test]
    fn transactions_that_began_after_the_sequence_stood_still_do_not_disturb() {
        let settled = poll(7, "10:12:10", 13);
        let later = poll(7, "10:30:10,12", 31).after(&settled);
        assert!(!settled.is_outdated_by(&later), "13 to 29 began after the poll, 10 and 12 are still open");
        assert!(!later.is_outdated_by(&poll(7, "10:40:10,12", 41)), "13 to 39 have nothing up to 7");
        assert!(later.is_outdated_by(&poll(7, "10:40:10", 41)), "12 may have");
    }
}
