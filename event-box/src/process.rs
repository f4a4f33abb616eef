use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::{claim::Partition, event_box::EventBox};

/// This process, as the other processes of its group know it: what it claimed, and which events it began alone.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: Uuid,
    log: EventBox,
    group: String,
    /// The transaction that last claimed each partition here.
    claims: [AtomicU64; 64],
    /// How many events were to go alone when that claim began.
    careful: [AtomicUsize; 64],
    begun: Mutex<HashMap<i16, Begun>>,
}

#[derive(Debug)]
enum Begun {
    Running,
    TakingBack(AbortHandle),
}

impl Process {
    pub(crate) fn new(log: EventBox, group: String) -> Self {
        Self {
            id: Uuid::now_v7(),
            log,
            group,
            claims: [const { AtomicU64::new(0) }; 64],
            careful: [const { AtomicUsize::new(0) }; 64],
            begun: Mutex::default(),
        }
    }

    /// Notes the transaction that claims the partition, and answers with the one before it.
    pub(crate) fn claimed(&self, partition: i16, xid: u64) -> u64 {
        self.claims[partition as usize].swap(xid, Ordering::Relaxed)
    }

    /// Notes how many events of the partition are to go alone, and answers with the number before it.
    pub(crate) fn is_careful(&self, partition: i16, events: usize) -> usize {
        self.careful[partition as usize].swap(events, Ordering::Relaxed)
    }

    /// Before an event of the partition begins alone.
    pub(crate) fn begins(&self, partition: i16) {
        if let Some(Begun::TakingBack(task)) = self.begun().insert(partition, Begun::Running) {
            task.abort();
        }
    }

    /// The batch in which it began has committed, and with it the end of the event.
    pub(crate) fn ended(&self, partition: i16) {
        self.begun().remove(&partition);
    }

    /// Its batch failed, but the process did not die of it: says so to the others, before they charge the event.
    pub(crate) fn lived(&self, partition: i16) {
        let mut begun = self.begun();
        if !matches!(begun.get(&partition), Some(Begun::Running)) {
            return;
        }
        let taking_back = tokio::spawn(take_back(self.log.clone(), self.group.clone(), self.id, vec![partition]));
        begun.insert(partition, Begun::TakingBack(taking_back.abort_handle()));
    }

    /// The same for whatever is left when the group ends in this process.
    pub(crate) async fn ends(&self) {
        let partitions: Vec<_> = self.begun().drain().map(|(partition, _)| partition).collect();
        let taken_back = take_back(self.log.clone(), self.group.clone(), self.id, partitions);
        if tokio::time::timeout(Duration::from_secs(2), taken_back).await.is_err() {
            tracing::warn!(
                group = self.group,
                "the database could not be told which events had been begun and not ended"
            );
        }
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, HashMap<i16, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    /// A consumer whose future was dropped lives on in its process all the same.
    fn drop(&mut self) {
        let partitions: Vec<_> = self.begun().drain().map(|(partition, _)| partition).collect();
        if let (false, Ok(runtime)) = (partitions.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(take_back(self.log.clone(), self.group.clone(), self.id, partitions));
        }
    }
}

/// Until the database has heard it.
async fn take_back(log: EventBox, group: String, process: Uuid, partitions: Vec<i16>) {
    for number in partitions {
        let partition = Partition { schema: log.schema(), group: &group, number };
        for _ in 0..600 {
            match partition.take_back(log.pool(), process).await {
                Ok(()) => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}
