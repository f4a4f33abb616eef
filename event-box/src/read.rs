use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sqlx::PgConnection;

use crate::{
    claim::{Claim, Partition, Partitions, array, parse},
    cursor::Cursor,
    headers::Headers,
    mutation,
    record::Record,
    snapshot::Snapshot,
    types::{RawJson, Timestamp},
};

/// What one read of a claimed partition saw.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) partition: i16,
    /// As of when: our own transaction counted as open.
    pub(crate) seen: Snapshot,
    pub(crate) own_xid: u64,
    /// Some event of the partition is parked, and its key waits.
    parks: bool,
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
    /// Missing where the group does not read the event, or the byte budget ended before it: that row is the last.
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
    /// As [`Partitions::read`], which answers for one partition here.
    pub(crate) async fn read(
        &self,
        connection: &mut PgConnection,
        claim: &Claim,
        topics: &[String],
        limit: usize,
        bytes: usize,
    ) -> Result<Page, ReadError> {
        let pages = self.alone().read(connection, std::slice::from_ref(claim), topics, limit, bytes).await?;
        pages.into_iter().next().ok_or(ReadError::GroupRemoved)
    }
}

impl Partitions<'_> {
    /// Reads what is still to be delivered, at most `limit` rows of each partition and one more, in a statement later than the claim: in
    /// the claim's own, events committed between its snapshot and the cursor that the lock returned would be passed over.
    ///
    /// Answers with a page for each claim, which stand in the order of the partitions' numbers here.
    pub(crate) async fn read(
        &self,
        connection: &mut PgConnection,
        claims: &[Claim],
        topics: &[String],
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Page>, ReadError> {
        let of = |value: fn(&Cursor) -> i64| claims.iter().map(|claim| value(&claim.cursor)).collect::<Vec<_>>();
        let text = |value: fn(&Cursor) -> String| claims.iter().map(|claim| value(&claim.cursor)).collect::<Vec<_>>();
        let targets: Vec<_> =
            claims.iter().map(|claim| claim.cursor.target.as_ref().map(Snapshot::to_string)).collect();
        let rows = sqlx::query_file!(
            "src/read.sql",
            self.group,
            self.numbers,
            limit as i64 + 1,
            claims.first().map_or(&[][..], |claim| &claim.planning),
            &of(|cursor| cursor.position),
            &text(|cursor| cursor.snapshot.to_string()),
            &text(|cursor| array(&cursor.floors)),
            &of(|cursor| cursor.floor),
            &targets as _,
            &of(|cursor| cursor.reached),
        )
        .fetch_all(self.schema.over(&mut *connection))
        .await?;
        let (mut pages, mut spent, mut large) = (Vec::<Page>::with_capacity(claims.len()), 0, Vec::new());
        let mut at = 0;
        for row in rows {
            if row.foreign_log == Some(true) {
                return Err(ReadError::ForeignLog);
            }
            let missing = || sqlx::Error::Decode("the read returned an incomplete row".into());
            let Some(sequence) = row.sequence else {
                let claim =
                    claims.get(pages.len()).filter(|claim| claim.partition == row.partition).ok_or_else(missing)?;
                let mut state = row.state.ok_or_else(missing)?.into_iter();
                let mode = state.next().flatten().ok_or_else(missing)?;
                let is = |said: &str| state.as_slice().iter().flatten().any(|word| word == said);
                pages.push(Page {
                    partition: row.partition,
                    // Our own transaction counts as open: what it emits is delivered once, later.
                    seen: parse::<Snapshot>(&row.snapshot.ok_or_else(missing)?)?.without(claim.xid),
                    own_xid: claim.xid,
                    parks: is("parks"),
                    paused: is("paused"),
                    retries_due: false,
                    mode,
                    rows: Vec::new(),
                });
                continue;
            };
            // Those of a partition stand together, in the order of the pages.
            while pages.get(at).ok_or(ReadError::GroupRemoved)?.partition != row.partition {
                at += 1;
            }
            let page = &mut pages[at];
            if page.is_cut() {
                continue;
            }
            let cut = row.bytes.is_some() && spent >= bytes;
            if cut && mutation::is("byte-budget-hides-the-next") {
                continue;
            }
            let record = match row.bytes.filter(|_| !cut) {
                None => None,
                Some(bytes) => {
                    spent += bytes as usize;
                    if row.payload.is_none() {
                        large.push((at, page.rows.len()));
                    }
                    Some(Arc::new(Record {
                        sequence,
                        id: row.id.ok_or_else(missing)?,
                        topic: row.topic.ok_or_else(missing)?,
                        version: row.version.ok_or_else(missing)?,
                        partition_key: row.partition_key,
                        payload: row.payload.map(|json| json.0).unwrap_or_default(),
                        headers: headers(row.headers),
                        emitted_at: row.emitted_at.ok_or_else(missing)?.0,
                    }))
                }
            };
            page.rows.push(Row { sequence, subscribed: row.bytes.is_some(), behind: false, record });
        }
        // Without the group there is none.
        if pages.len() < claims.len() {
            return Err(ReadError::GroupRemoved);
        }
        if !large.is_empty() {
            self.read_large(&mut *connection, &mut pages, &large).await?;
        }
        for page in pages.iter_mut().filter(|page| page.parks && !page.paused) {
            self.read_parked(&mut *connection, page, topics).await?;
        }
        Ok(pages)
    }

    /// What waits for what is parked. It is asked for where something is, and holds for as long as the partition is ours.
    async fn read_parked(
        &self,
        connection: &mut PgConnection,
        page: &mut Page,
        topics: &[String],
    ) -> Result<(), sqlx::Error> {
        let keys = page.rows.iter().filter_map(|row| row.record.as_ref()?.partition_key.as_deref());
        let keys: HashSet<_> = keys.collect();
        let keys: Vec<_> = keys.into_iter().map(str::to_owned).collect();
        let rows = sqlx::query_file!("src/read_parked.sql", self.group, page.partition, topics, &keys)
            .fetch_all(self.schema.over(connection))
            .await?;
        page.retries_due = rows.iter().any(|row| row.retries_due == Some(true));
        let from: HashMap<_, _> = rows.into_iter().filter_map(|row| row.key.zip(row.sequence)).collect();
        for row in &mut page.rows {
            let key = row.record.as_ref().and_then(|record| record.partition_key.as_ref());
            let from = key.and_then(|key| from.get(key));
            row.behind = from.is_some_and(|from| *from < row.sequence) && !mutation::is("follower-before-the-parked");
        }
        Ok(())
    }

    /// What lies outside of the rows, and so was not read with them.
    async fn read_large(
        &self,
        connection: &mut PgConnection,
        pages: &mut [Page],
        large: &[(usize, usize)],
    ) -> Result<(), sqlx::Error> {
        let partitions: Vec<_> = large.iter().map(|(page, _)| pages[*page].partition).collect();
        let sequences: Vec<_> = large.iter().map(|(page, row)| pages[*page].rows[*row].sequence).collect();
        let read = sqlx::query!(
            r#"select sequence as "sequence!", payload as "payload!: RawJson", headers as "headers: RawJson"
               from unnest($1::smallint[], $2::bigint[]) as large (partition, sequence)
               join event_box.events using (partition, sequence)
               where erased_at is null"#,
            &partitions,
            &sequences,
        )
        .fetch_all(self.schema.over(connection))
        .await?;
        let mut read: HashMap<_, _> = read.into_iter().map(|row| (row.sequence, (row.payload, row.headers))).collect();
        for (page, row) in large {
            let row = &mut pages[*page].rows[*row];
            match (read.remove(&row.sequence), row.record.as_mut().and_then(Arc::get_mut)) {
                (Some((payload, json)), Some(record)) => (record.payload, record.headers) = (payload.0, headers(json)),
                // Erased in between.
                _ => (row.subscribed, row.record) = (false, None),
            }
        }
        Ok(())
    }
}

impl Page {
    /// The byte budget ended before its last row.
    fn is_cut(&self) -> bool {
        self.rows.last().is_some_and(|row| row.subscribed && row.record.is_none())
    }
}

fn headers(json: Option<RawJson>) -> Headers {
    json.map(|json| Headers::from_json(&json.0)).unwrap_or_default()
}
