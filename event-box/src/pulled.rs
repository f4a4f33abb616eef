use std::{collections::VecDeque, fmt, sync::Arc, time::SystemTime};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    claim::Partition,
    event::{DecodeError, Event},
    failpoint::failpoint,
    failure::{Failure, chain},
    headers::Headers,
    parked::{Parking, Reason, Tries},
    policy::Policy,
    record::Record,
    schema::Schema,
    verdict::{Charge, Verdict},
};

/// An event that was pulled. It counts as delivered once the transaction it was pulled in commits.
#[derive(Clone)]
pub struct PulledEvent {
    record: Arc<Record>,
    attempt: u32,
}

impl PulledEvent {
    /// Reads the payload as an event type.
    ///
    /// # Errors
    /// Where the payload does not fit the type, or the version is not known to this code: [`PulledBatch::fail`] it.
    pub fn decode<E: Event>(&self) -> Result<E, DecodeError> {
        E::decode(&self.record.topic, self.record.version, &self.record.payload)
    }

    /// The payload, byte for byte as it was emitted: JSON.
    pub fn payload(&self) -> &[u8] {
        &self.record.payload
    }

    /// The event's id, the same in every delivery.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// The topic it was stored under.
    pub fn topic(&self) -> &str {
        &self.record.topic
    }

    /// The version it was stored with.
    pub fn version(&self) -> i16 {
        self.record.version
    }

    /// The key it is ordered by, if any.
    pub fn partition_key(&self) -> Option<&str> {
        self.record.partition_key.as_deref()
    }

    /// Its place in the log: ascending within a key, unique in the log.
    pub fn sequence(&self) -> i64 {
        self.record.sequence
    }

    /// What travels beside the payload.
    pub fn headers(&self) -> &Headers {
        &self.record.headers
    }

    /// When the emitting statement began, by the database's clock; of a delayed event, when it was moved into the log.
    pub fn emitted_at(&self) -> SystemTime {
        self.record.emitted_at
    }

    /// Which attempt this is, 1 for the first; only those that [failed](PulledBatch::fail) are counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl fmt::Debug for PulledEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PulledEvent")
            .field("topic", &self.record.topic)
            .field("id", &self.record.id)
            .field("sequence", &self.record.sequence)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Events of one partition, in order of the log; an iterator over what is left of them.
#[derive(Debug)]
#[must_use = "what was pulled counts as delivered once its transaction commits"]
pub struct PulledBatch {
    pub(crate) schema: Schema,
    pub(crate) group: String,
    pub(crate) partition: i16,
    pub(crate) policy: Policy,
    pub(crate) events: VecDeque<PulledEvent>,
}

impl PulledBatch {
    pub(crate) fn empty(schema: Schema, group: String, policy: Policy) -> Self {
        Self { schema, group, partition: 0, policy, events: VecDeque::new() }
    }

    pub(crate) fn fill(&mut self, partition: i16, collected: Vec<(Arc<Record>, u32)>) {
        self.partition = partition;
        self.events = collected.into_iter().map(|(record, attempt)| PulledEvent { record, attempt }).collect();
    }

    /// Events that were not taken yet.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The event was not dealt with: it is parked, in the transaction it was pulled in, and comes again with backoff or becomes a dead
    /// letter, as the failure says. Later events of its key wait behind it and are taken out of this batch.
    ///
    /// Where everything fails, drop the transaction instead: then nothing was pulled. That goes for [`Failure::Unavailable`] too, which
    /// counts as a failed attempt here.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn fail(
        &mut self,
        transaction: &mut PgConnection,
        event: PulledEvent,
        failure: impl Into<Failure>,
    ) -> Result<(), sqlx::Error> {
        let failed = self.parking(&event, failure.into());
        let blocks = failed.blocks();
        let mut parkings = vec![failed];
        let mut payloads = vec![String::from_utf8_lossy(event.payload()).into_owned()];
        if let (true, Some(key)) = (blocks, event.partition_key()) {
            let (behind, left) =
                std::mem::take(&mut self.events).into_iter().partition(|later| later.partition_key() == Some(key));
            self.events = left;
            let behind: VecDeque<PulledEvent> = behind;
            payloads.extend(behind.iter().map(|later| String::from_utf8_lossy(later.payload()).into_owned()));
            parkings.extend(
                behind.iter().map(|later| Parking {
                    attempts: later.attempt.saturating_sub(1),
                    ..Parking::waiting(&later.record)
                }),
            );
        }
        let partition = Partition { schema: &self.schema, group: &self.group, number: self.partition };
        partition.park(transaction, &parkings).await?;
        // What a person had put in the place of a payload went with the row that the pull removed.
        sqlx::query!(
            r#"update event_box.parked as p set payload = n.payload::json
               from unnest($3::bigint[], $4::text[]) as n (sequence, payload)
               join event_box.events as e on e.partition = $2 and e.sequence = n.sequence
               where p.group_name = $1 and p.partition = $2 and p.sequence = n.sequence and e.payload::text <> n.payload"#,
            self.group,
            self.partition,
            &parkings.iter().map(|parking| parking.sequence).collect::<Vec<_>>(),
            &payloads,
        )
        .execute(self.schema.over(&mut *transaction))
        .await?;
        failpoint!(PullFailed);
        crate::report::report(&self.group, &parkings[..1], None, std::time::Duration::ZERO).await;
        Ok(())
    }

    fn parking(&self, event: &PulledEvent, failure: Failure) -> Parking {
        let tries = Tries { attempts: event.attempt.saturating_sub(1), deaths: 0 };
        let (error, charge) = match failure {
            Failure::Snooze(wait) => {
                let waiting = Parking::waiting(&event.record);
                return Parking { reason: Reason::Snoozed, attempts: tries.attempts, due_in: Some(wait), ..waiting };
            }
            Failure::Reject(error) => (error, Charge::Rejection),
            Failure::Retry(error) | Failure::Unavailable(error) => (error, Charge::Attempt),
        };
        self.policy.judge(&event.record, tries, &Verdict { error: chain(&*error), charge, left_running: false })
    }
}

impl Iterator for PulledBatch {
    type Item = PulledEvent;

    fn next(&mut self) -> Option<PulledEvent> {
        self.events.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.events.len(), Some(self.events.len()))
    }
}
