use std::{collections::HashMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Assignment, BatchError},
    check::LogError,
    consumer::Consumer,
    mover::move_due,
    process::Process,
    read::ReadError,
    report::DeadLetter,
    run_error::RunError,
    types::Timestamp,
    verdict::Verdicts,
    worker::Shared,
};

/// What a drain came to.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "handlers may have failed"]
pub struct Drained {
    /// How many events were handled.
    pub handled: usize,
    /// Failed attempts, with their errors, in the order they failed. Those of an event that was handled in the end are among them.
    pub failures: Vec<String>,
    /// The events that were given up.
    pub dead_letters: Vec<DeadLetter>,
    /// A handler said that what it depends on is down: the drain ended there, with this error.
    pub unavailable: Option<String>,
}

/// So often in a row may nothing come of what is tried.
const IDLE_ROUNDS: usize = 100;
/// Due times of delayed events that handlers emit during the drain: one that always emits itself again would have no end.
const CHAINED: usize = 1_000;

/// Delivers to the consumer's group until there is nothing left to do, what its handlers emit included, in this task and one batch after
/// another. Failed and snoozed events come again at once: no real time passes, however long their backoff, until they are handled or dead.
///
/// The group is made where it does not exist. Only committed events are seen. Events whose handlers snooze them a hundred times in a row,
/// while nothing else happens, are left.
///
/// # Errors
/// As [`Consumer::run`], and where the database fails.
pub async fn drain(consumer: &Consumer) -> Result<Drained, RunError> {
    consumer.try_start().await?;
    let Consumer { log, group, dispatch, settings, .. } = consumer;
    let shared = Arc::new(Shared {
        log: log.clone(),
        group: group.clone(),
        dispatch: dispatch.clone(),
        policy: settings.policy.clone(),
        dead_letter_hook: settings.dead_letter_hook.clone(),
        process: Process::new(log.clone(), group.clone()),
        shutdown: CancellationToken::new(),
    });
    let mut drained = Drained { handled: 0, failures: Vec::new(), dead_letters: Vec::new(), unavailable: None };
    let mut tries: HashMap<i16, Tries> = HashMap::new();
    let database = |error| RunError::Log(LogError::from_database(error, log.schema()));
    let mut clock = Clock::start(&shared).await.map_err(database)?;
    let mut idle = 0;
    loop {
        let before = (drained.handled, drained.failures.len());
        hurry(&shared).await.map_err(database)?;
        let (_, look) = shared.look(None).await;
        let look = look.map_err(database)?.ok_or_else(|| RunError::GroupRemoved { group: group.clone() })?;
        if look.partitions.is_empty() || idle == IDLE_ROUNDS {
            if !clock.advance(&shared).await.map_err(database)? {
                return Ok(drained);
            }
            idle = 0;
            continue;
        }
        for partition in look.partitions {
            let tries = tries.entry(partition).or_default();
            batch(&shared, partition, tries, &mut drained).await?;
            if drained.unavailable.is_some() {
                return Ok(drained);
            }
        }
        idle = if before == (drained.handled, drained.failures.len()) { idle + 1 } else { 0 };
    }
}

/// What earlier tries at a partition's batch have found out.
#[derive(Default)]
struct Tries {
    verdicts: Verdicts,
    one_by_one: bool,
}

async fn batch(shared: &Shared, partition: i16, tries: &mut Tries, drained: &mut Drained) -> Result<(), RunError> {
    let rows = shared.policy.batch_size;
    let events = if tries.one_by_one { 1 } else { rows };
    let assignment = Assignment { rows, events, verdicts: tries.verdicts.clone(), suspect: None };
    let (_, result) = shared.batch(None, partition, &assignment).await;
    match result {
        Ok(None) => {}
        Ok(Some(done)) => {
            tries.verdicts.retain(|sequence, _| done.more && !done.judged.contains(sequence));
            tries.one_by_one &= done.more && done.judged.is_empty();
            drained.handled += done.handled;
            drained.failures.extend(done.failures.iter().filter_map(|parking| parking.error.clone()));
            let dead = done.failures.iter().filter(|parking| parking.dead);
            drained.dead_letters.extend(dead.map(|parking| DeadLetter::new(&shared.group, parking)));
            drained.unavailable = done.unavailable.map(|unavailable| unavailable.error);
        }
        Err(BatchError::Verdict { sequence, verdict }) => {
            tries.verdicts.insert(sequence, verdict);
        }
        Err(BatchError::Refused(_) | BatchError::RunTimedOut { .. }) => tries.one_by_one = true,
        Err(BatchError::Read(error)) => return Err(run_error(shared, error)),
    }
    Ok(())
}

fn run_error(shared: &Shared, error: ReadError) -> RunError {
    let (group, schema) = (shared.group.clone(), shared.log.schema());
    match error {
        ReadError::Database(error) => RunError::Log(LogError::from_database(error, schema)),
        ReadError::ForeignLog => RunError::Log(LogError::Foreign { schema: schema.name().to_owned() }),
        ReadError::GroupRemoved => RunError::GroupRemoved { group },
        ReadError::Mode { stored } => RunError::Mode { group, stored, own: shared.policy.mode },
    }
}

/// Whatever is to be tried later is tried now.
async fn hurry(shared: &Shared) -> Result<(), sqlx::Error> {
    let mut tx = shared.log.begin().await?;
    sqlx::query!("update event_box.parked set due_at = now() where group_name = $1 and due_at > now()", shared.group)
        .execute(shared.log.schema().over(&mut *tx))
        .await?;
    tx.commit().await
}

/// Goes from one due time of delayed events to the next.
struct Clock {
    /// The last that was emitted before the drain.
    last_ordinal: i64,
    chained: usize,
}

impl Clock {
    async fn start(shared: &Shared) -> Result<Self, sqlx::Error> {
        let mut tx = shared.log.begin().await?;
        let last_ordinal =
            sqlx::query_scalar!(r#"select coalesce(max(ordinal), 0) as "last_ordinal!" from event_box.delayed"#)
                .fetch_one(shared.log.schema().over(&mut *tx))
                .await?;
        tx.commit().await?;
        Ok(Self { last_ordinal, chained: 0 })
    }

    /// Moves the delayed events of the earliest due time; answers whether there were any.
    async fn advance(&mut self, shared: &Shared) -> Result<bool, sqlx::Error> {
        let schema = shared.log.schema();
        let mut tx = shared.log.begin().await?;
        // What somebody is cancelling is left.
        let next = sqlx::query!(
            r#"select due_at as "due_at: Timestamp", ordinal from event_box.delayed order by due_at, ordinal limit 1
               for update skip locked"#
        )
        .fetch_optional(schema.over(&mut *tx))
        .await?;
        tx.commit().await?;
        let Some(next) = next else { return Ok(false) };
        if next.ordinal > self.last_ordinal {
            self.chained += 1;
        }
        if self.chained > CHAINED {
            return Ok(false);
        }
        let due_at = next.due_at.0;
        loop {
            let mut tx = shared.log.begin().await?;
            let moved = move_due(&mut tx, schema, Some(Timestamp(due_at))).await?;
            tx.commit().await?;
            if moved == 0 {
                return Ok(true);
            }
        }
    }
}
