use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::{LOOK_ANYWAY, Scheduler};
use crate::{
    check::LogError,
    look::Look,
    poll::Poll,
    pulse::{Hint, Server},
    run_error::RunError,
};

/// For this long after an announcement every move of the log is looked into at once.
const HEARD: Duration = Duration::from_millis(20);

/// When to look for work.
impl Scheduler {
    pub(super) fn hear(&mut self, hint: Result<Hint, broadcast::error::RecvError>) {
        let partition = match hint {
            Ok(hint) if hint.concerns(self.shared.dispatch.topics()) => hint.partition,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // Not ours; and the pulse lives as long as we do.
            Ok(_) | Err(broadcast::error::RecvError::Closed) => return,
        };
        if self.paused {
            return;
        }
        self.heard_at = Instant::now();
        match partition {
            Some(partition) => self.ready.announce(partition),
            None => self.look_wanted = true,
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
                if moved || self.settled.as_ref().is_some_and(|settled| settled.is_outdated_by(poll)) {
                    self.settled = None;
                    let now = Instant::now();
                    if now < self.heard_at + HEARD {
                        // Neighbours of what was announced.
                        self.look_wanted = true;
                    } else {
                        // Most likely none of ours: a busy log must not keep an idle group looking.
                        self.look_at = self.look_at.min(self.looked_at + self.poll_interval);
                    }
                }
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
        self.look_at = now + look.retry_in.map_or(LOOK_ANYWAY, |wait| wait.min(LOOK_ANYWAY));
        if poll.is_none() {
            // Nothing to compare with: the next poll counts as a move, also where it has come already.
            self.last_value = None;
        }
        self.settled = if look.partitions.is_empty() { poll } else { None };
        for partition in look.partitions {
            self.ready.push(partition);
        }
        if self.settled.is_some() && self.tasks.is_empty() {
            // Back to the pool: other groups may need them.
            self.connections.clear();
        }
        Ok(())
    }
}
