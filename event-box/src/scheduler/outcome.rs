use tokio::time::Instant;

use super::Scheduler;
use crate::{
    batch::{BatchError, Done, Unavailable},
    check::LogError,
    error::{is_missing_privilege, is_missing_table},
    failure::chain,
    outage::{Outage, Probe},
    read::ReadError,
    run_error::RunError,
    savepoint::MAX_SAVEPOINTS,
    trouble::Trouble,
    verdict::Verdict,
};

/// What a batch's end means for the next ones.
impl Scheduler {
    pub(super) fn batch_finished(
        &mut self,
        partition: i16,
        result: Result<Option<Done>, BatchError>,
    ) -> Result<(), RunError> {
        let mut more = false;
        let settled = self.settled.take();
        let probed = self.probing.take_if(|probing| *probing == partition).is_some();
        match result {
            // Another process works on it, or may have died of it: looking again at once would spin.
            Ok(None | Some(Done { waits: true, .. })) => {
                self.look_at = self.look_at.min(Instant::now() + self.poll_interval);
                if probed {
                    self.trouble.back_off(Some(partition));
                }
            }
            Ok(Some(done)) => {
                if let Some(verdicts) = self.verdicts.get_mut(&partition) {
                    verdicts.retain(|sequence, _| done.more && !done.judged.contains(sequence));
                }
                if let Some(left) = self.narrowed.get_mut(&partition) {
                    *left = left.saturating_sub(done.handled + done.failures.len());
                    if *left == 0 || !done.more || !done.judged.is_empty() {
                        self.narrowed.remove(&partition);
                    }
                }
                if !done.careful {
                    self.careful.remove(&partition);
                }
                self.learn(partition, &done);
                self.settled = settled;
                self.look_after(&done);
                self.limit = next_limit(&done, self.shared.policy.batch_size);
                more = done.more;
                match &done.unavailable {
                    Some(unavailable) => self.unavailable(partition, probed, unavailable.clone()),
                    None if probed => self.probed(partition, &done),
                    None => self.delivered(partition),
                }
            }
            Err(BatchError::Verdict { sequence, verdict }) => {
                self.verdicts.entry(partition).or_default().insert(sequence, verdict);
                more = true;
            }
            Err(error @ (BatchError::Refused(_) | BatchError::RunTimedOut { .. })) => {
                let group = &self.shared.group;
                tracing::warn!(
                    group,
                    partition,
                    error = chain(&error),
                    "a batch was refused, its events are tried one by one"
                );
                // A run may be too long as a whole. What the server refuses has a culprit.
                let suspects = if let BatchError::RunTimedOut { events, .. } = error { events } else { usize::MAX };
                self.narrowed.insert(partition, suspects);
                more = true;
            }
            Err(BatchError::Read(ReadError::GroupRemoved)) => return Err(self.group_removed()),
            Err(BatchError::Read(ReadError::ForeignLog)) => {
                return Err(RunError::Log(LogError::Foreign { schema: self.shared.log.schema().name().to_owned() }));
            }
            Err(BatchError::Read(ReadError::Mode { stored })) => {
                let (group, own) = (self.shared.group.clone(), self.shared.policy.mode);
                return Err(RunError::Mode { group, stored, own });
            }
            Err(BatchError::Read(ReadError::Database(error))) => {
                more = is_connection_trouble(&error);
                self.trouble(Some(partition), error)?;
            }
        }
        self.ready.finished(partition, more);
        Ok(())
    }

    pub(super) fn group_removed(&self) -> RunError {
        RunError::GroupRemoved { group: self.shared.group.clone() }
    }

    /// The database failed us. Backs off, or gives up where time will not mend it.
    pub(super) fn trouble(&mut self, partition: Option<i16>, error: sqlx::Error) -> Result<(), RunError> {
        let lasting = is_missing_table(&error) || is_missing_privilege(&error);
        if lasting || matches!(error, sqlx::Error::PoolClosed) {
            return Err(RunError::Log(LogError::from_database(error, self.shared.log.schema())));
        }
        let lost = is_connection_trouble(&error);
        let group = &self.shared.group;
        match partition.filter(|_| !lost) {
            // The others may be well.
            Some(partition) => {
                let trouble = self.troubled.entry(partition).or_insert_with(Trouble::none);
                if trouble.back_off(Some(partition)) {
                    tracing::warn!(group, partition, error = chain(&error), "events cannot be delivered, trying on");
                }
                self.look_at = self.look_at.min(trouble.not_before);
            }
            None => {
                self.look_wanted = true;
                if self.trouble.back_off(partition) {
                    tracing::warn!(group, error = chain(&error), "events cannot be delivered, trying on");
                }
            }
        }
        Ok(())
    }

    /// A batch went through.
    pub(super) fn delivered(&mut self, partition: i16) {
        if self.troubled.remove(&partition).is_some() {
            tracing::info!(group = self.shared.group, partition, "events are delivered again");
        }
        if self.outage.is_none() && self.trouble.partition.is_some() {
            self.recovered();
        }
    }

    /// A handler says that what it depends on is down.
    pub(super) fn unavailable(&mut self, partition: i16, probed: bool, unavailable: Unavailable) {
        let group = &self.shared.group;
        match &mut self.outage {
            Some(outage) if probed => outage.failed(partition, unavailable),
            // Another worker's batch, begun before that was known.
            Some(_) => return,
            None => {
                let (sequence, error) = (unavailable.sequence, &unavailable.error);
                tracing::warn!(group, sequence, error, "what the handler depends on is down, the group backs off");
                self.outage = Some(Outage::new(partition, unavailable));
            }
        }
        let Some(outage) = &self.outage else { return };
        if outage.proven {
            let Unavailable { sequence, error, .. } = outage.suspect();
            let verdict = Verdict::alone_unavailable(error);
            self.verdicts.entry(partition).or_default().insert(*sequence, verdict);
            self.outage = None;
            self.recovered();
        } else if !matches!(outage.next(), Probe::Elsewhere(_)) {
            // Where the suspect has just been refused again, its comparison does not wait.
            self.trouble.back_off(Some(partition));
        }
    }

    /// A probe went through, or found nothing to try.
    pub(super) fn probed(&mut self, partition: i16, done: &Done) {
        if done.handled == 0 && done.failures.is_empty() && done.more {
            return;
        }
        match &mut self.outage {
            Some(outage) if partition != outage.partition && done.handled > 0 => outage.proven = true,
            _ => {
                self.outage = None;
                self.recovered();
            }
        }
    }

    pub(super) fn recovered(&mut self) {
        if self.trouble.is_over() {
            tracing::info!(group = self.shared.group, "events are delivered again");
        }
    }
}

/// The server as a whole cannot be reached, is starting up, shutting down, full or read-only.
fn is_connection_trouble(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "25006", "57P", "53"].iter().any(|class| code.starts_with(class)))
        }
        _ => true,
    }
}

/// How many rows the next batch reads, `all` at most: no more than it can use.
pub(super) fn next_limit(done: &Done, all: usize) -> usize {
    match done {
        Done { out_of_savepoints: true, .. } => MAX_SAVEPOINTS as usize,
        Done { out_of_time: true, handled, .. } => (2 * handled).clamp(16.min(all), all),
        _ => all,
    }
}
