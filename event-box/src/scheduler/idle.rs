use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::{LOOK_ANYWAY, Scheduler};
use crate::{
    batch::Done,
    check::LogError,
    look::Look,
    poll::Poll,
    pulse::{Hint, Server},
    run_error::RunError,
};

/// For this long after it was announced that more may follow every move of the log is looked into at once.
const DENSE: Duration = Duration::from_millis(20);
/// Where all that moved was announced, a look finds only what other processes parked, or what a notification that came late stood for.
const EXPLAINED: Duration = Duration::from_secs(5);
/// What a batch leaves behind is looked for no more often than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Connections are kept for so long after there was work.
const LULL: Duration = Duration::from_secs(1);

/// Where so many partitions have work, looking for those that have costs more than it spares.
pub(super) const MOST: usize = 32;

/// When to look for work.
impl Scheduler {
    /// When something is to be begun that waits for its time.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        if now < self.trouble.not_before {
            return self.trouble.not_before;
        }
        let rest = (self.is_idle() && !self.connections.is_empty()).then_some(self.rest_at.max(now));
        let paced = (self.look_wanted || self.ready.waiting().next().is_some()).then(|| self.pace.open_at());
        let paced = paced.filter(|open_at| *open_at > now);
        [Some(self.look_at), rest, paced].into_iter().flatten().min().unwrap_or(self.look_at)
    }

    /// After a batch. When what it parked falls due is for a look to say.
    pub(super) fn look_after(&mut self, done: &Done) {
        self.rest_at = Instant::now() + LULL;
        if done.parked || done.careful || done.unavailable.is_some() {
            self.settled = None;
            self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL);
        } else if self.settled.is_none() {
            self.look_at = self.look_at.min(self.looked_at + self.poll_interval);
        }
    }

    /// Without work, connections go back to the pool: others may need them. At once, where it has none left.
    pub(super) fn rest(&mut self, now: Instant) {
        let pool = self.shared.log.pool();
        let scarce = || pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
        if self.is_idle() && (now >= self.rest_at || scarce()) {
            self.connections.clear();
        }
    }

    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.ready.waiting().next().is_none() && !self.look_wanted
    }

    pub(super) fn hear(&mut self, hint: Result<Hint, broadcast::error::RecvError>) {
        if self.paused {
            return;
        }
        let partition = match hint {
            Ok(hint) => {
                if hint.is_of_one {
                    (self.announced, self.heard_at) = (self.announced + 1, Instant::now());
                }
                // Not ours.
                if !hint.concerns(self.shared.dispatch.topics()) {
                    return;
                }
                if hint.more_may_follow {
                    self.dense_at = Instant::now();
                }
                hint.partition
            }
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The pulse lives as long as we do.
            Err(broadcast::error::RecvError::Closed) => return,
        };
        match partition {
            Some(partition) => self.ready.announce(partition),
            None => self.look_wanted = true,
        }
    }

    /// What was announced said that others of the group may follow: they are looked for, unless they are everywhere anyway.
    fn find_neighbours(&mut self, now: Instant) {
        if self.everywhere && self.sweeps(now) {
            (0..64).for_each(|partition| self.ready.push(partition));
        } else {
            self.look_wanted = true;
        }
    }

    /// The idle rule: looks only where the polls say that there may be something.
    pub(super) fn compare(&mut self, server: &watch::Receiver<Server>) -> Result<(), RunError> {
        match &*server.borrow() {
            Server::Live(poll) => {
                if self.last_value.is_none() && self.outage.is_none() {
                    // The server is back: no reason to sit out a pause.
                    self.trouble.not_before = Instant::now();
                }
                let moved = self.last_value.replace(poll.last_value) != Some(poll.last_value);
                if self.settled.as_ref().map_or(moved, |settled| settled.is_outdated_by(poll)) {
                    let now = Instant::now();
                    // What was heard long ago the poll before has seen. That a pause ended is for a look to say.
                    let counts = now < self.heard_at + 2 * self.poll_interval && !self.paused;
                    let announced = if counts { self.announced } else { 0 };
                    if self.settled.take_if(|settled| settled.differs_by(poll, announced)).is_some() {
                        self.settled = Some(poll.clone());
                        self.look_at = self.look_at.min(self.looked_at + EXPLAINED);
                    } else {
                        // Most likely none of ours: a busy log must not keep an idle group looking.
                        self.settled = None;
                        self.look_at = self.look_at.min(self.looked_at + self.poll_interval);
                        if now < self.dense_at + DENSE {
                            self.find_neighbours(now);
                        }
                    }
                }
                self.announced = 0;
                Ok(())
            }
            Server::Unknown => {
                (self.settled, self.last_value) = (None, None);
                self.look_wanted = true;
                Ok(())
            }
            Server::Standby => Err(RunError::Log(LogError::Standby)),
        }
    }

    pub(super) fn look_finished(
        &mut self,
        poll: Option<Arc<Poll>>,
        result: Result<Option<Look>, sqlx::Error>,
    ) -> Result<(), RunError> {
        self.looking = false;
        let look = match result {
            Ok(Some(look)) => look,
            Ok(None) => return Err(self.group_removed()),
            Err(error) => {
                self.settled = None;
                return self.trouble(None, error);
            }
        };
        if std::mem::replace(&mut self.paused, look.paused) != look.paused {
            let (group, what) = (&self.shared.group, if look.paused { "paused" } else { "resumed" });
            tracing::info!(group, "the group was {what}");
        }
        if self.outage.is_none() && (look.partitions.is_empty() || self.trouble.partition.is_none()) {
            self.recovered();
        }
        let now = Instant::now();
        if let Some(wait) = look.retry_in {
            self.look_at = self.look_at.min(now + wait.min(LOOK_ANYWAY));
        }
        if poll.is_none() {
            // Nothing to compare with: the next poll counts as a move, also where it has come already.
            self.last_value = None;
        }
        self.settled = if look.partitions.is_empty() { poll } else { None };
        self.everywhere = look.partitions.len() >= MOST;
        for partition in look.partitions {
            self.ready.push(partition);
        }
        Ok(())
    }
}
