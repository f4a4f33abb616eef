use std::time::{Duration, SystemTime};

use sqlx::{Connection, PgConnection};

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    mode::Mode,
    types::Timestamp,
};

/// How a consumer group does, as [`ConsumerGroup::health`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupHealth {
    /// How it delivers; `None` where that is a mode of a later version of event-box.
    pub mode: Option<Mode>,
    /// Since when nothing is delivered to it; `None` where it is not paused.
    pub paused_at: Option<SystemTime>,
    /// Parked events that are tried when they fall due.
    pub retrying: u64,
    /// Parked events that wait behind another of their key.
    pub waiting: u64,
    /// Parked events whose handler asked for them later.
    pub snoozed: u64,
    /// Parked events that wait for a process with a handler.
    pub no_handler: u64,
    /// Dead letters, those that hold their key included.
    pub dead: u64,
    /// Keys whose later events wait behind a parked one.
    pub blocked_keys: u64,
    /// The log's partitions, in order.
    pub partitions: Vec<PartitionHealth>,
}

/// How far a consumer group is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionHealth {
    /// 0 to 63.
    pub partition: i16,
    /// The highest sequence that the group has passed.
    pub position: i64,
    /// Events of the group's topics that it was not given yet, parked ones not among them.
    pub pending: u64,
    /// There may be more pending events: counting ended at 10,000 rows of the log.
    pub more: bool,
    /// How long ago the oldest of the pending events that were counted was emitted.
    pub oldest: Option<Duration>,
    /// When the group last took a batch here.
    pub advanced_at: SystemTime,
    /// Who has a batch in hand here, or otherwise holds the cursor; `None` where nobody does.
    pub held_by: Option<Holder>,
}

/// The database session whose transaction holds a partition of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The backend's process id, as `pg_terminate_backend` takes it.
    pub pid: i32,
    /// What the session calls itself.
    pub application_name: Option<String>,
    /// Since when its transaction is open; `None` where the session is another role's and one's own is not in `pg_read_all_stats`.
    pub transaction_started: Option<SystemTime>,
    /// What it does, as in `pg_stat_activity`: `active`, `idle in transaction`; `None` as above.
    pub state: Option<String>,
}

impl GroupHealth {
    /// Pending events of all partitions, as far as they were counted: see [`PartitionHealth::more`].
    pub fn pending(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.pending).sum()
    }

    /// There may be more pending events than were counted.
    pub fn more(&self) -> bool {
        self.partitions.iter().any(|partition| partition.more)
    }

    /// How long ago the oldest pending event was emitted; `None` where nothing is pending.
    pub fn oldest(&self) -> Option<Duration> {
        self.partitions.iter().filter_map(|partition| partition.oldest).max()
    }
}

impl ConsumerGroup {
    /// How the group does: what is pending, what is parked, and who holds its partitions. Read only, without a lock.
    ///
    /// It examines at most 10,000 late and 10,000 fresh rows a partition and all that is parked: 3 ms where the group keeps up, 1.4 to 2.6 s
    /// where a million events are pending, 0.2 s for 100,000 parked events (on two busy cores). Do not ask more often than you need.
    ///
    /// ```no_run
    /// # async fn watch(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// let health = log.group("warehouse").health().await?;
    /// println!("{} pending, the oldest for {:?}; {} dead letters", health.pending(), health.oldest(), health.dead);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where there is no such group, or the database fails.
    pub async fn health(&self) -> Result<GroupHealth, GroupError> {
        let mut connection = self.connect().await?;
        // A bitmap scan would read all that is pending before it counts the first rows of it.
        let begin = "begin isolation level repeatable read read only; set local plan_cache_mode = force_generic_plan; set local jit = off; \
                     set local enable_bitmapscan = off";
        let found = async {
            let mut tx = connection.begin_with(begin).await?;
            let Some(mut health) = self.parked_health(&mut tx).await? else { return Ok(None) };
            health.partitions = self.partition_health(&mut tx).await?;
            tx.commit().await?;
            Ok(Some(health))
        };
        found.await.map_err(|error| self.database(error))?.ok_or_else(|| self.missing())
    }

    async fn parked_health(&self, connection: &mut PgConnection) -> Result<Option<GroupHealth>, sqlx::Error> {
        let row = sqlx::query!(
            r#"with heads as materialized (
                   select partition, partition_key, min(sequence) as head from event_box.parked
                   where group_name = $1 and blocks and partition_key is not null
                   group by partition, partition_key
               ), states as (
                   select reason, dead_at is not null as dead, due_at is null or coalesce(sequence > head, false) as waits
                   from event_box.parked left join heads using (partition, partition_key)
                   where group_name = $1
               ), living as (
                   select reason, waits from states where not dead
               )
               select mode, paused_at as "paused_at: Timestamp",
                      (select count(*) from living where reason not in ('snoozed', 'no_handler') and not waits) as "retrying!",
                      (select count(*) from living where reason <> 'no_handler' and waits) as "waiting!",
                      (select count(*) from living where reason = 'snoozed' and not waits) as "snoozed!",
                      (select count(*) from living where reason = 'no_handler') as "no_handler!",
                      (select count(*) from states where dead) as "dead!",
                      (select count(*) from heads) as "blocked_keys!"
               from event_box.consumer_groups where name = $1"#,
            self.name
        )
        .fetch_optional(self.log.schema().over(connection))
        .await?;
        Ok(row.map(|row| GroupHealth {
            mode: Mode::parse(&row.mode),
            paused_at: row.paused_at.map(|at| at.0),
            retrying: row.retrying as u64,
            waiting: row.waiting as u64,
            snoozed: row.snoozed as u64,
            no_handler: row.no_handler as u64,
            dead: row.dead as u64,
            blocked_keys: row.blocked_keys as u64,
            partitions: Vec::new(),
        }))
    }

    async fn partition_health(&self, connection: &mut PgConnection) -> Result<Vec<PartitionHealth>, sqlx::Error> {
        let rows = sqlx::query_file!("src/health.sql", self.name).fetch_all(self.log.schema().over(connection)).await?;
        let partitions = rows.into_iter().map(|row| PartitionHealth {
            partition: row.partition,
            position: row.position,
            pending: row.pending as u64,
            more: row.more,
            // Clocks may differ, and emitters' transactions be ahead of ours.
            oldest: row.oldest_seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            advanced_at: row.advanced_at.0,
            held_by: row.pid.map(|pid| Holder {
                pid,
                application_name: row.application_name,
                transaction_started: row.xact_start.map(|at| at.0),
                state: row.state,
            }),
        });
        Ok(partitions.collect())
    }
}
