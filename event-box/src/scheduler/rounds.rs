use super::{Finished, Scheduler, idle::MOST};
use crate::{
    batch::{BatchError, Done},
    round::{Finish, Offer},
    run_error::RunError,
};

/// The rounds of a concurrent group.
impl Scheduler {
    /// Begins a round, where there are slots to fill and partitions to fill them with. One at a time takes partitions, so that none takes
    /// more than it needs.
    pub(super) fn start_round(&mut self) -> bool {
        let Some(concurrency) = self.concurrency.clone().filter(|_| !self.claiming && self.outage.is_none()) else {
            return false;
        };
        let (mut partitions, mut alone) = (Vec::new(), Vec::new());
        while partitions.len() < concurrency.slots.room() {
            match self.next_ready() {
                Some(partition) if self.goes_alone(partition) => {
                    alone.push(partition);
                    if partitions.is_empty() {
                        // Its turn: a single worker would else be taken by rounds for as long as others have work.
                        break;
                    }
                }
                Some(partition) => partitions.push(partition),
                None => break,
            }
        }
        for partition in alone {
            self.ready.finished(partition, true);
        }
        if partitions.is_empty() {
            return false;
        }
        self.claiming = true;
        let (shared, connection) = (self.shared.clone(), self.connections.pop());
        let offer = Offer { partitions, rows: self.limit };
        self.tasks.spawn(async move {
            let (taken, answer) = shared.round(connection, offer, &concurrency).await;
            Finished::Round(taken, answer)
        });
        true
    }

    /// Whether the partition's events need care that a round does not give: they go in batches of one.
    pub(super) fn goes_alone(&self, partition: i16) -> bool {
        self.careful.contains(&partition)
            || self.narrowed.contains_key(&partition)
            || self.verdicts.get(&partition).is_some_and(|verdicts| !verdicts.is_empty())
    }

    /// A round has as many partitions as it needs; these it leaves to others.
    pub(super) fn released(&mut self, partitions: Vec<i16>) {
        self.claiming = false;
        self.ready.give_back(partitions);
    }

    pub(super) fn round_finished(
        &mut self,
        taken: Vec<i16>,
        result: Result<Vec<(i16, Finish)>, BatchError>,
    ) -> Result<(), RunError> {
        match result {
            Ok(finished) => {
                let with_events =
                    finished.iter().filter_map(|(_, finish)| finish.done()).filter(|done| done.handled > 0);
                self.everywhere &= with_events.count() >= MOST;
                for (partition, finish) in finished {
                    let done = match finish {
                        Finish::Busy => None,
                        Finish::Done(done) => Some(done),
                        Finish::Left => {
                            self.ready.finished(partition, true);
                            continue;
                        }
                        Finish::Alone => {
                            self.careful.insert(partition);
                            Some(Done { more: true, careful: true, ..Done::default() })
                        }
                    };
                    let conflict = done.as_ref().is_some_and(|done| done.conflict);
                    self.batch_finished(partition, Ok(done))?;
                    if conflict {
                        // Holding no locks of other partitions next time.
                        self.careful.insert(partition);
                    }
                }
            }
            Err(error) => {
                // It concerns the connection, or all of them alike.
                let mut taken = taken.into_iter();
                if let Some(first) = taken.next() {
                    self.batch_finished(first, Err(error))?;
                }
                for partition in taken {
                    self.ready.finished(partition, true);
                }
            }
        }
        Ok(())
    }
}
