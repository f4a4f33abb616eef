use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    claim::Partition,
    failpoint::failpoint,
    headers::Headers,
    record::Record,
    retention::CENTURY,
    types::{RawJson, Timestamp},
};

/// An event that a group could not be given, or not yet. Written under the claim of its partition.
#[derive(Debug, Clone)]
pub(crate) struct Parking {
    pub(crate) sequence: i64,
    pub(crate) id: Uuid,
    pub(crate) topic: String,
    pub(crate) partition_key: Option<String>,
    pub(crate) reason: Reason,
    /// Failed attempts so far.
    pub(crate) attempts: u32,
    /// Processes that died of it.
    pub(crate) deaths: u32,
    pub(crate) error: Option<String>,
    /// When it is tried next; `None` where it waits behind another or for a process with a handler, or is dead.
    pub(crate) due_in: Option<Duration>,
    pub(crate) dead: bool,
    /// Dead, and its key waits until a person decides.
    pub(crate) holds_key: bool,
}

impl Parking {
    /// Behind another of its key, until that has cleared.
    pub(crate) fn waiting(record: &Record) -> Self {
        Self {
            sequence: record.sequence,
            id: record.id,
            topic: record.topic.clone(),
            partition_key: record.partition_key.clone(),
            reason: Reason::Waiting,
            attempts: 0,
            deaths: 0,
            error: None,
            due_in: None,
            dead: false,
            holds_key: false,
        }
    }

    /// To be tried after so long, without an attempt having been counted.
    pub(crate) fn snoozed(record: &Record, tries: Tries, wait: Duration) -> Self {
        Self {
            reason: Reason::Snoozed,
            attempts: tries.attempts,
            deaths: tries.deaths,
            due_in: Some(wait),
            ..Self::waiting(record)
        }
    }

    /// Another process of the group may know the topic: during a rolling deployment, the newer one.
    pub(crate) fn no_handler(record: &Record) -> Self {
        Self { reason: Reason::NoHandler, ..Self::waiting(record) }
    }

    /// Whether later events of its key wait behind it.
    pub(crate) fn blocks(&self) -> bool {
        !self.dead || self.holds_key
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Failed,
    Waiting,
    Snoozed,
    NoHandler,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Snoozed => "snoozed",
            Self::NoHandler => "no_handler",
        }
    }
}

/// A parked event whose turn may have come.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) sequence: i64,
    pub(crate) partition_key: Option<String>,
    /// Missing where somebody deleted it from the log.
    pub(crate) record: Option<Arc<Record>>,
    pub(crate) tries: Tries,
    /// Due and of a topic that is handled here; otherwise it only says that those behind it must wait.
    pub(crate) ready: bool,
}

/// What an event has been through.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    /// Failed attempts.
    pub(crate) attempts: u32,
    /// Processes that died of it.
    pub(crate) deaths: u32,
}

impl Partition<'_> {
    /// Due heads of keys, oldest due first, each with those that wait behind it; in sequence order.
    pub(crate) async fn due(
        &self,
        connection: &mut PgConnection,
        topics: &[String],
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Parked>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"with heads as (
                   select sequence, partition_key from (
                       (select sequence, partition_key, due_at from event_box.parked as p
                        where group_name = $1 and partition = $2 and due_at <= clock_timestamp() and topic = any($3::text[])
                        and (partition_key is null or not exists (
                            select from event_box.parked as before
                            where before.group_name = $1 and before.partition = $2 and before.partition_key = p.partition_key
                              and before.sequence < p.sequence and before.blocks))
                        order by due_at limit $4)
                       union all
                       (select sequence, partition_key, parked_at from event_box.parked as p
                        where group_name = $1 and partition = $2 and reason = 'no_handler' and topic = any($3::text[])
                        and (partition_key is null or not exists (
                            select from event_box.parked as before
                            where before.group_name = $1 and before.partition = $2 and before.partition_key = p.partition_key
                              and before.sequence < p.sequence and before.blocks))
                        limit $4)
                   ) as candidates
                   order by due_at limit $4
               ), turn as (
                   select sequence from heads
                   union
                   select follower.sequence from heads cross join lateral (
                       select sequence from event_box.parked
                       where group_name = $1 and partition = $2 and partition_key = heads.partition_key
                         and sequence > heads.sequence and blocks
                       order by sequence limit 100
                   ) as follower
               ), page as (
                   select p.sequence, p.attempts, p.deaths, p.partition_key,
                          p.dead_at is null and (p.due_at is null or p.due_at <= clock_timestamp()) and p.topic = any($3) as ready,
                          e.id, e.topic, e.version, coalesce(p.payload, e.payload) as payload, e.headers, e.emitted_at,
                          sum(pg_column_size(coalesce(p.payload, e.payload)) + coalesce(pg_column_size(e.headers), 0))
                              over (order by p.sequence rows between unbounded preceding and 1 preceding) as bytes_before
                   from turn
                   join event_box.parked as p on p.group_name = $1 and p.partition = $2 and p.sequence = turn.sequence
                   left join event_box.events as e on e.partition = $2 and e.sequence = turn.sequence
               )
               select sequence as "sequence!", attempts as "attempts!", deaths as "deaths!", ready as "ready!", id as "id?",
                      topic as "topic?", version as "version?", partition_key, payload as "payload?: RawJson",
                      headers as "headers?: RawJson", emitted_at as "emitted_at?: Timestamp"
               from page where coalesce(bytes_before, 0) < $5::bigint
               order by sequence limit $4"#,
            self.group,
            self.number,
            topics,
            limit as i64,
            bytes as i64,
        )
        .fetch_all(self.schema.over(connection))
        .await?;
        let parked = rows.into_iter().map(|row| Parked {
            sequence: row.sequence,
            tries: Tries { attempts: row.attempts as u32, deaths: row.deaths as u32 },
            ready: row.ready,
            record: row.id.zip(row.topic).zip(row.payload).zip(row.emitted_at).map(
                |(((id, topic), payload), emitted_at)| {
                    Arc::new(Record {
                        sequence: row.sequence,
                        id,
                        topic,
                        version: row.version.unwrap_or(1),
                        partition_key: row.partition_key.clone(),
                        payload: payload.0,
                        headers: row.headers.map(|json| Headers::from_json(&json.0)).unwrap_or_default(),
                        emitted_at: emitted_at.0,
                    })
                },
            ),
            partition_key: row.partition_key,
        });
        Ok(parked.collect())
    }

    /// Parks events, or parks them again.
    pub(crate) async fn park(&self, connection: &mut PgConnection, parkings: &[Parking]) -> Result<(), sqlx::Error> {
        if parkings.is_empty() {
            return Ok(());
        }
        failpoint!(Parking);
        let column = |of: fn(&Parking) -> Option<String>| parkings.iter().map(of).collect::<Vec<_>>();
        sqlx::query!(
            r#"insert into event_box.parked as p
                   (group_name, partition, sequence, topic, partition_key, reason, attempts, deaths, error,
                    first_failed_at, last_failed_at, due_at, dead_at, holds_key)
               select $1, $2, sequence, topic, partition_key, reason, attempts, deaths, error,
                      case when reason = 'failed' then clock_timestamp() end,
                      case when reason = 'failed' then clock_timestamp() end,
                      clock_timestamp() + due_in * interval '1 second',
                      case when dead then clock_timestamp() end, holds_key
               from unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::integer[], $9::text[], $10::float8[],
                           $11::boolean[], $12::boolean[])
                   as n (sequence, topic, partition_key, reason, attempts, deaths, error, due_in, dead, holds_key)
               on conflict (group_name, partition, sequence) do update
               set reason = excluded.reason, attempts = excluded.attempts, deaths = excluded.deaths, error = coalesce(excluded.error, p.error),
                   first_failed_at = coalesce(p.first_failed_at, excluded.first_failed_at),
                   last_failed_at = coalesce(excluded.last_failed_at, p.last_failed_at),
                   due_at = excluded.due_at, dead_at = excluded.dead_at, holds_key = excluded.holds_key"#,
            self.group,
            self.number,
            &parkings.iter().map(|parking| parking.sequence).collect::<Vec<_>>(),
            &column(|parking| Some(parking.topic.clone())) as _,
            &column(|parking| parking.partition_key.clone()) as _,
            &column(|parking| Some(parking.reason.text().to_owned())) as _,
            &parkings.iter().map(|parking| parking.attempts as i32).collect::<Vec<_>>(),
            &parkings.iter().map(|parking| parking.deaths as i32).collect::<Vec<_>>(),
            // PostgreSQL's text holds no NUL.
            &column(|parking| parking.error.as_ref().map(|error| error.replace('\0', "\u{FFFD}"))) as _,
            &parkings.iter().map(|parking| parking.due_in.map(|wait| wait.min(CENTURY).as_secs_f64())).collect::<Vec<_>>() as _,
            &parkings.iter().map(|parking| parking.dead).collect::<Vec<_>>(),
            &parkings.iter().map(|parking| parking.holds_key).collect::<Vec<_>>(),
        )
        .execute(self.schema.over(connection))
        .await?;
        failpoint!(Parked);
        Ok(())
    }

    /// Forgets events that went out after all.
    pub(crate) async fn clear(&self, connection: &mut PgConnection, sequences: &[i64]) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "delete from event_box.parked where group_name = $1 and partition = $2 and sequence = any($3)",
            self.group,
            self.number,
            sequences,
        )
        .execute(self.schema.over(connection))
        .await?;
        failpoint!(Cleared);
        Ok(())
    }

    /// Makes the first of those that wait for each key due, where nothing stands before it any more.
    pub(crate) async fn promote(&self, connection: &mut PgConnection, keys: &[String]) -> Result<(), sqlx::Error> {
        sqlx::query!(
            r#"update event_box.parked as p set due_at = clock_timestamp()
               from unnest($3::text[]) as cleared (key)
               where p.group_name = $1 and p.partition = $2 and p.due_at is null and p.dead_at is null and p.reason <> 'no_handler'
                 and p.partition_key = cleared.key
                 and p.sequence = (
                     select min(head.sequence) from event_box.parked as head
                     where head.group_name = $1 and head.partition = $2 and head.partition_key = cleared.key and head.blocks)"#,
            self.group,
            self.number,
            keys,
        )
        .execute(self.schema.over(connection))
        .await?;
        failpoint!(Promoted);
        Ok(())
    }
}
