use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    attempt::Fate,
    batch::{Done, Unavailable},
    care::Care,
    mutation,
    parked::{Parking, Tries},
    record::Record,
    run::Runs,
    savepoint::Savepoint,
};

/// An event that alone may be the cause of an outage, as it stood before it was tried.
#[derive(Clone)]
pub(crate) struct Doubt {
    pub(crate) record: Arc<Record>,
    pub(crate) tries: Tries,
    pub(crate) unavailable: Unavailable,
}

/// What one pass over a batch's events has done so far.
pub(crate) struct Progress {
    pub(crate) started: Instant,
    pub(crate) savepoint: Savepoint,
    /// Not yet written.
    pub(crate) parkings: Vec<Parking>,
    /// Keys with an event before which nothing of theirs may go out.
    pub(crate) blocked: HashSet<String>,
    /// Events of other partitions went out in this transaction.
    pub(crate) after_others: bool,
    /// No further event may start.
    pub(crate) closed: bool,
    /// Events that wait to be handed to their batch handlers together.
    pub(crate) runs: Runs,
    /// In an earlier pass others stood in the way of the run that begins here: the batch ends before it, or is for that run alone.
    pub(crate) crowded: Option<i64>,
    pub(crate) for_a_run_alone: bool,
    /// The last event of the log that was handled or parked.
    pub(crate) reached: i64,
    /// Rows of the log, and retries, that were dealt with.
    pub(crate) passed: usize,
    /// Nothing is left in the partition.
    pub(crate) exhausted: bool,
    /// Nothing may be delivered to the group.
    pub(crate) paused: bool,
    pub(crate) care: Care,
    /// The suspect said again that the other side is unavailable, and is parked for now.
    pub(crate) doubted: Option<Doubt>,
    /// It has been asked again, in this pass or an earlier one.
    pub(crate) asked_again: bool,
    /// What earlier passes found out.
    pub(crate) fates: HashMap<i64, Fate>,
    /// How many of them this pass has met.
    pub(crate) recalled: usize,
    pub(crate) done: Done,
}

impl Progress {
    pub(crate) fn new(started: Instant, care: Care, all_or_nothing: bool) -> Self {
        Self {
            started,
            savepoint: Savepoint::new(all_or_nothing),
            parkings: Vec::new(),
            blocked: HashSet::new(),
            after_others: false,
            closed: false,
            runs: Runs::default(),
            crowded: None,
            for_a_run_alone: false,
            reached: 0,
            passed: 0,
            exhausted: false,
            paused: false,
            care,
            doubted: None,
            asked_again: false,
            fates: HashMap::new(),
            recalled: 0,
            done: Done::default(),
        }
    }

    /// The same batch from its beginning, with what is known of it by now.
    pub(crate) fn again(self, known: Vec<(i64, Fate)>, crowded: Option<i64>, savepoints: bool) -> Self {
        let all_or_nothing = self.savepoint.is_off() && !savepoints;
        // A pass that only knows more must get through in the time of the first; one that goes about it otherwise begins anew.
        let started = if crowded.is_some() || savepoints { Instant::now() } else { self.started };
        let mut fates = self.fates;
        fates.extend(known);
        Self { fates, crowded, asked_again: self.asked_again, ..Self::new(started, self.care, all_or_nothing) }
    }

    /// Events of the log went out, up to this one.
    pub(crate) fn handled(&mut self, sequence: i64, events: usize) {
        self.done.handled += events;
        self.reached = self.reached.max(sequence);
    }

    /// An event of the log is to be parked.
    pub(crate) fn park(&mut self, parking: Parking) {
        if parking.blocks() {
            self.blocked.extend(parking.partition_key.clone());
        }
        self.reached = self.reached.max(parking.sequence);
        self.parkings.push(parking);
    }

    /// Whether an event of its key that was parked in this batch stands before it.
    pub(crate) fn is_blocked(&self, record: &Record) -> bool {
        record.partition_key.as_ref().is_some_and(|key| self.blocked.contains(key))
            && !mutation::is("follower-in-the-same-batch")
    }

    /// Whether a conflict of the event may come of locks that are held for others before it: those are gone where it begins a batch of
    /// its own. Where it does so already, the conflict is a failure like any other.
    pub(crate) fn is_after_others(&self, sequence: i64) -> bool {
        let begins = self.for_a_run_alone && self.crowded == Some(sequence);
        (self.done.handled > 0 || self.after_others) && !begins
    }

    /// How many events are to go one a transaction after this batch: none once the culprit is named, or nothing is left.
    pub(crate) fn careful(&self) -> usize {
        let deadly = &self.care.deadly;
        let named = !deadly.is_empty() && deadly.keys().all(|sequence| self.done.judged.contains(sequence));
        if named || self.exhausted {
            return 0;
        }
        self.care.left.saturating_sub(self.passed)
    }
}
