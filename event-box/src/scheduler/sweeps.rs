use std::time::Duration;

use tokio::time::Instant;

use super::{Finished, Scheduler};
use crate::{batch::Done, mode::Mode, sweep};

/// Handlers that take longer than this, on average in a transaction, are worth one for each partition,
const SLOW: Duration = Duration::from_millis(5);
/// for so long.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Handlers that take longer than this are worth several workers; and at most so many partitions share a transaction, since each keeps
/// the others waiting.
const QUICK: Duration = Duration::from_micros(200);
const PARTITIONS: usize = 16;

/// So many events are worth a transaction at any time.
const MANY: usize = 200;

/// Partitions with few events, together.
impl Scheduler {
    /// Begins a sweep, where several partitions with few events wait, the first of all among them.
    pub(super) fn start_sweep(&mut self, now: Instant) -> bool {
        if !self.sweeps(now)
            || now < self.pace.open_at()
            || !self.ready.waiting().next().is_some_and(|first| self.is_shallow(first))
        {
            return false;
        }
        let shallow: Vec<_> = self.ready.waiting().filter(|number| self.is_shallow(*number)).collect();
        let numbers = if now < self.not_quick_until {
            // The other workers take their part.
            let free = self.workers.saturating_sub(self.tasks.len()).max(1);
            &shallow[..shallow.len().div_ceil(free).min(PARTITIONS)]
        } else {
            &shallow[..]
        };
        if numbers.len() < 2 {
            return false;
        }
        let numbers: Vec<_> = numbers.iter().copied().filter(|number| self.ready.take(*number)).collect();
        let (shared, connection) = (self.shared.clone(), self.connections.pop());
        self.tasks.spawn(async move {
            let (taken, answer) = shared.sweep(connection, numbers).await;
            Finished::Round(taken, answer)
        });
        true
    }

    pub(super) fn sweeps(&self, now: Instant) -> bool {
        self.shared.policy.mode == Mode::Transactional
            && !self.shared.dispatch.has_batch_handlers()
            && self.outage.is_none()
            && now >= self.slow_until
    }

    /// What a transaction over so many partitions did. Where there are many events in one, nothing is to be gained by waiting for more; the
    /// rounds of a concurrent group wait for their handlers anyway.
    pub(super) fn spent<'a>(&mut self, partitions: usize, dones: impl Iterator<Item = &'a Done>) {
        if self.concurrency.is_none()
            && dones.map(|done| done.handled).sum::<usize>() < MANY * partitions.div_ceil(PARTITIONS)
        {
            self.pace.spend(Instant::now(), partitions);
        }
    }

    /// Whether only few events are expected there.
    pub(super) fn is_shallow(&self, number: i16) -> bool {
        !self.deep.contains(&number) && !self.goes_alone(number) && !self.troubled.contains_key(&number)
    }

    /// What a batch's end says of the next.
    pub(super) fn learn(&mut self, number: i16, done: &Done) {
        if done.more && done.handled >= sweep::ROWS {
            self.deep.insert(number);
        } else if !done.more {
            self.deep.remove(&number);
        }
        let events = (done.handled + done.failures.len()).max(1) as u32;
        if done.handling > QUICK * events {
            self.not_quick_until = Instant::now() + SLOW_FOR;
        }
        if done.handling > SLOW * events {
            self.slow_until = Instant::now() + SLOW_FOR;
        }
    }
}
