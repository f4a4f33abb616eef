use std::sync::Arc;

use tokio::{sync::OwnedSemaphorePermit, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{Fate, fate},
    event_info::EventInfo,
    failpoint::failpoint,
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

/// Runs a partition's chains side by side. They begin in their order, each when a slot is free for it: what is left where `closing` is
/// cancelled stands behind what began, but for the later events of a key.
pub(crate) async fn run_all(
    chains: Vec<Chain>,
    shared: Arc<Shared>,
    handlers: Arc<dyn DispatchDetached>,
    closing: CancellationToken,
) -> Vec<End> {
    let (mut running, mut ends) = (JoinSet::new(), Vec::new());
    for chain in chains {
        let slot = chain.slot(&closing).await;
        running.spawn(chain.run(slot, shared.clone(), handlers.clone(), closing.clone()));
    }
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok(of_chain) => ends.extend(of_chain),
            // Handlers' panics are caught where they are called: this one is ours.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    ends
}

impl Chain {
    /// `None` once `closing` is cancelled.
    async fn slot(&self, closing: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = closing.cancelled() => None,
            slot = self.seat.slot() => slot,
        }
    }

    /// Runs every event, in order, until one fails that those behind it must wait for. Nothing begins once `closing` is cancelled; an event
    /// that calls the other side unavailable cancels it.
    async fn run(
        mut self,
        mut first_slot: Option<OwnedSemaphorePermit>,
        shared: Arc<Shared>,
        handlers: Arc<dyn DispatchDetached>,
        closing: CancellationToken,
    ) -> Vec<End> {
        let links = std::mem::take(&mut self.links);
        let mut ends = Vec::with_capacity(links.len());
        let (mut left, mut blocked) = (first_slot.is_none(), false);
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
            let slot = match first_slot.take() {
                Some(slot) => Some(slot),
                None => self.slot(&closing).await,
            };
            let Some(slot) = slot else {
                left = true;
                ends.push((sequence, Outcome::Left));
                continue;
            };
            let fate = handle(&shared, &*handlers, &record, tries, self.partition).await;
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
    let delivered = async {
        failpoint!(ChainHandling);
        handlers.deliver(info, Terms { partition, deadline }).await?;
        failpoint!(ChainHandled);
        Ok(())
    };
    match tokio::time::timeout_at(deadline, delivered).await {
        Ok(Ok(())) => Fate::Handled,
        Ok(Err(failure)) => fate(policy, record, tries, failure, false),
        Err(_) => Fate::Parked(policy.judge(record, tries, &Verdict::timed_out(policy.handler_timeout))),
    }
}
