use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{Fate, fate},
    event_info::EventInfo,
    parked::{Parking, Tries},
    record::Record,
    router::DispatchDetached,
    slots::Seat,
    verdict::Verdict,
    work::Terms,
    worker::Shared,
};

/// Events of one key on their way to the handlers of a concurrent group: one after another. An event without a key is a chain of its own.
pub(crate) struct Chain {
    pub(crate) partition: i16,
    pub(crate) links: Vec<Link>,
    pub(crate) seat: Seat,
}

/// An event of a chain, and what it has been through.
pub(crate) struct Link {
    pub(crate) record: Arc<Record>,
    pub(crate) tries: Tries,
}

/// What became of an event of a chain, by its sequence.
pub(crate) type End = (i64, Outcome);

#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its handlers ran; or it is to be parked behind one that failed.
    Ended(Fate),
    /// It was not begun.
    Left,
}

impl Chain {
    /// Runs every event, in order, until one fails that those behind it must wait for. Nothing begins once `closing` is cancelled; an event
    /// that calls the other side unavailable cancels it.
    pub(crate) async fn run(
        self,
        shared: Arc<Shared>,
        handlers: Arc<dyn DispatchDetached>,
        closing: CancellationToken,
    ) -> Vec<End> {
        let Self { partition, links, seat } = self;
        let (mut ends, mut left, mut blocked) = (Vec::with_capacity(links.len()), false, false);
        for Link { record, tries } in links {
            let sequence = record.sequence;
            if left {
                ends.push((sequence, Outcome::Left));
                continue;
            }
            if blocked {
                ends.push((sequence, Outcome::Ended(Fate::Parked(Parking::waiting(&record)))));
                continue;
            }
            let slot = tokio::select! {
                biased;
                () = closing.cancelled() => None,
                slot = seat.slot() => slot,
            };
            let Some(slot) = slot else {
                left = true;
                ends.push((sequence, Outcome::Left));
                continue;
            };
            let fate = handle(&shared, &*handlers, &record, tries, partition).await;
            drop(slot);
            match &fate {
                Fate::Handled => {}
                Fate::Parked(parking) => blocked = parking.blocks(),
                Fate::Unavailable(_) | Fate::Conflict => {
                    closing.cancel();
                    left = true;
                }
            }
            ends.push((sequence, Outcome::Ended(fate)));
        }
        ends
    }
}

async fn handle(
    shared: &Shared,
    handlers: &dyn DispatchDetached,
    record: &Record,
    tries: Tries,
    partition: i16,
) -> Fate {
    let policy = &shared.policy;
    let info = EventInfo { record, group: &shared.group, attempt: tries.attempts.saturating_add(1) };
    let deadline = Instant::now() + policy.handler_timeout;
    match tokio::time::timeout_at(deadline, handlers.deliver(info, Terms { partition, deadline })).await {
        Ok(Ok(())) => Fate::Handled,
        Ok(Err(failure)) => fate(policy, record, tries, failure, false),
        Err(_) => Fate::Parked(policy.judge(record, tries, &Verdict::timed_out(policy.handler_timeout))),
    }
}
