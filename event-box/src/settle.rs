use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    attempt::Fate,
    batch::Done,
    chain::{End, Outcome},
    parked::{Parked, Parking, Reason, Tries},
    read::Row,
};

/// What a partition's claim comes to when every handler of it has ended: what is to be written, before its cursor advances.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) parkings: Vec<Parking>,
    /// Parked events that went out.
    pub(crate) cleared: Vec<i64>,
    /// Keys whose next may be due.
    pub(crate) keys: Vec<String>,
    /// The last row that is dealt with, and the first that is not.
    pub(crate) handled: Option<i64>,
    pub(crate) next: Option<i64>,
    pub(crate) done: Done,
}

/// The rows of the log up to a limit, and the retries, with what became of them.
///
/// Handlers run side by side, so that one may have ended while one before it was not begun: where the claim ended early. The cursor knows no
/// gaps, so what was left before the last that began is parked, due at once and without an attempt.
pub(crate) fn settle(rows: &[Row], limit: usize, due: &[Parked], ends: Vec<End>, topics: &[String]) -> Settled {
    let mut ends: HashMap<i64, Outcome> = ends.into_iter().collect();
    let mut settled = Settled::default();
    retries(due, &mut ends, &mut settled);
    let began = |row: &&Row| matches!(ends.get(&row.sequence), Some(Outcome::Ended(fate)) if began(fate));
    let last_begun = rows.iter().filter(began).map(|row| row.sequence).max().unwrap_or(0);
    let mut blocked = HashSet::new();
    for (i, row) in rows.iter().enumerate() {
        let sequence = row.sequence;
        if i == limit {
            settled.next = Some(sequence);
            break;
        }
        if row.subscribed {
            let Some(record) = &row.record else {
                settled.next = Some(sequence);
                break;
            };
            let key = record.partition_key.as_ref();
            let behind = row.behind || key.is_some_and(|key| blocked.contains(key));
            let parking = match ends.remove(&sequence) {
                Some(Outcome::Ended(Fate::Handled)) => None,
                Some(Outcome::Ended(Fate::Parked(parking))) => Some(parking),
                _ if behind => Some(Parking::waiting(record)),
                _ if topics.binary_search(&record.topic).is_err() => Some(Parking::no_handler(record)),
                unavailable_or_left => {
                    if let Some(Outcome::Ended(Fate::Unavailable(unavailable))) = unavailable_or_left {
                        settled.done.unavailable.get_or_insert(unavailable);
                    }
                    settled.done.out_of_time = settled.done.unavailable.is_none();
                    if sequence > last_begun {
                        settled.next = Some(sequence);
                        break;
                    }
                    Some(Parking::snoozed(record, Tries::default(), Duration::ZERO))
                }
            };
            match parking {
                None => settled.done.handled += 1,
                Some(parking) => {
                    if parking.blocks() {
                        blocked.extend(key.cloned());
                    }
                    settled.parkings.push(parking);
                }
            }
        }
        settled.handled = Some(sequence);
    }
    settled.done.more = settled.next.is_some() || !due.is_empty();
    let failed = |parking: &&Parking| parking.reason == Reason::Failed;
    settled.done.parked = !settled.parkings.is_empty();
    settled.done.failures = settled.parkings.iter().filter(failed).cloned().collect();
    settled
}

/// Whether its handler was called: then it must not come again as if it had not been.
fn began(fate: &Fate) -> bool {
    match fate {
        Fate::Handled => true,
        Fate::Parked(parking) => parking.reason != Reason::Waiting,
        Fate::Unavailable(_) | Fate::Conflict => false,
    }
}

fn retries(due: &[Parked], ends: &mut HashMap<i64, Outcome>, settled: &mut Settled) {
    for parked in due {
        let sequence = parked.sequence;
        if parked.record.is_none() {
            tracing::error!(
                sequence,
                "a parked event is no longer in the log: it was deleted by hand, and is forgotten"
            );
            settled.cleared.push(sequence);
            settled.keys.extend(parked.partition_key.clone());
            continue;
        }
        match ends.remove(&sequence) {
            Some(Outcome::Ended(Fate::Handled)) => {
                settled.done.handled += 1;
                settled.cleared.push(sequence);
                settled.keys.extend(parked.partition_key.clone());
            }
            // Those that wait behind it are parked already, and stay as they are.
            Some(Outcome::Ended(Fate::Parked(parking))) if parking.reason != Reason::Waiting => {
                if !parking.blocks() {
                    settled.keys.extend(parked.partition_key.clone());
                }
                settled.parkings.push(parking);
            }
            Some(Outcome::Ended(Fate::Unavailable(unavailable))) => {
                settled.done.unavailable.get_or_insert(unavailable);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
