use std::sync::Arc;

use sqlx::PgConnection;

use crate::{
    claim::{Partition, Session, parse},
    cursor::Cursor,
    headers::Headers,
    record::Record,
    snapshot::Snapshot,
    types::{RawJson, Timestamp},
};

/// What one read of a claimed partition saw.
#[derive(Debug)]
pub(crate) struct Page {
    /// As of when: our own transaction counted as open.
    pub(crate) seen: Snapshot,
    pub(crate) own_xid: u64,
    /// A parked event of a topic handled here is due.
    pub(crate) retries_due: bool,
    /// Nothing may be delivered to the group.
    pub(crate) paused: bool,
    /// How the group delivers, as its table says.
    pub(crate) mode: String,
    /// In sequence order, one more than the limit where there is one.
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) sequence: i64,
    /// The group reads this topic.
    pub(crate) subscribed: bool,
    /// An earlier event of its key is parked.
    pub(crate) behind: bool,
    /// Missing where the group does not read the topic, or the byte budget ended before it.
    pub(crate) record: Option<Arc<Record>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the event log could not be read")]
    Database(#[from] sqlx::Error),
    /// The rows carry transaction ids of another cluster.
    #[error("the log carries another cluster's transaction ids")]
    ForeignLog,
    #[error("the consumer group was removed")]
    GroupRemoved,
    #[error("the consumer group runs in mode `{stored}`")]
    Mode { stored: String },
}

impl Partition<'_> {
    /// Reads what is still to be delivered, in a statement later than the claim: in the claim's own, events committed between its
    /// snapshot and the cursor that the lock returned would be passed over.
    pub(crate) async fn read(
        &self,
        connection: &mut PgConnection,
        cursor: &Cursor,
        session: &Session,
        topics: &[String],
        limit: usize,
        bytes: usize,
    ) -> Result<Page, ReadError> {
        let rows = sqlx::query_file!(
            "src/read.sql",
            self.group,
            self.number,
            limit as i64 + 1,
            bytes as i64,
            cursor.position,
            cursor.snapshot.to_string(),
            &cursor.floors,
            cursor.floor,
            cursor.target.as_ref().map(Snapshot::to_string) as _,
            cursor.reached,
            session.jit,
            session.plan_cache_mode,
            topics,
        )
        .fetch_all(self.schema.over(connection))
        .await?;
        let mut rows = rows.into_iter();
        let head = rows.next().ok_or(ReadError::GroupRemoved)?;
        let (Some(seen), Some(own_xid)) = (head.snapshot, head.own_xid) else {
            return Err(sqlx::Error::Decode("the read's first row is not its head".into()).into());
        };
        if head.foreign_log == Some(true) {
            return Err(ReadError::ForeignLog);
        }
        let mut page = Page {
            seen: parse(&seen)?,
            own_xid: parse(&own_xid)?,
            retries_due: head.retries_due == Some(true),
            paused: head.paused == Some(true),
            mode: head.mode.unwrap_or_default(),
            rows: Vec::new(),
        };
        for row in rows {
            if row.foreign_log == Some(true) {
                return Err(ReadError::ForeignLog);
            }
            let missing = || sqlx::Error::Decode("the read returned an incomplete row".into());
            let sequence = row.sequence.ok_or_else(missing)?;
            let record = match row.payload {
                None => None,
                Some(payload) => Some(Arc::new(Record {
                    sequence,
                    id: row.id.ok_or_else(missing)?,
                    topic: row.topic.ok_or_else(missing)?,
                    version: row.version.ok_or_else(missing)?,
                    partition_key: row.partition_key,
                    payload: payload.0,
                    headers: row.headers.map(|json| Headers::from_json(&json.0)).unwrap_or_default(),
                    emitted_at: row.emitted_at.ok_or_else(missing)?.0,
                })),
            };
            page.rows.push(Row {
                sequence,
                subscribed: row.subscribed == Some(true),
                behind: row.behind == Some(true),
                record,
            });
        }
        Ok(page)
    }
}
