use std::{collections::HashMap, time::Duration};

use crate::{
    backoff::Backoff,
    mode::Mode,
    parked::{Parking, Reason, Tries},
    record::Record,
    verdict::{Charge, Verdict},
};

/// How a group's batches are sized, and what becomes of events that fail.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) mode: Mode,
    pub(crate) batch_size: usize,
    pub(crate) batch_bytes: usize,
    /// No further event starts once a batch has taken this long.
    pub(crate) batch_time: Duration,
    pub(crate) handler_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) max_deaths: u32,
    pub(crate) backoff: Backoff,
    /// What is different for events of a topic.
    pub(crate) topics: HashMap<&'static str, TopicPolicy>,
    /// A dead letter's key waits until a person decides.
    pub(crate) hold_keys: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TopicPolicy {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            batch_size: 1_000,
            batch_bytes: 8 * 1024 * 1024,
            batch_time: Duration::from_secs(5),
            handler_timeout: Duration::from_secs(30),
            max_attempts: 15,
            max_deaths: 3,
            backoff: Backoff::default(),
            topics: HashMap::new(),
            hold_keys: false,
        }
    }
}

impl Policy {
    /// After which a server that does not answer counts as gone.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.handler_timeout + Duration::from_secs(15)
    }

    pub(crate) fn max_attempts(&self, topic: &str) -> u32 {
        self.topics.get(topic).and_then(|policy| policy.max_attempts).unwrap_or(self.max_attempts)
    }

    pub(crate) fn backoff(&self, topic: &str) -> &Backoff {
        self.topics.get(topic).and_then(|policy| policy.backoff.as_ref()).unwrap_or(&self.backoff)
    }

    /// How an event that failed is parked.
    pub(crate) fn judge(&self, record: &Record, tries: Tries, verdict: &Verdict) -> Parking {
        let Tries { mut attempts, mut deaths } = tries;
        let topic = &record.topic;
        let (failures, dead) = match verdict.charge {
            Charge::Death => {
                deaths = deaths.saturating_add(1);
                (deaths, deaths >= self.max_deaths)
            }
            charge => {
                attempts = attempts.saturating_add(1);
                (attempts, charge == Charge::Rejection || attempts >= self.max_attempts(topic))
            }
        };
        Parking {
            reason: Reason::Failed,
            attempts,
            deaths,
            error: Some(verdict.error.clone()),
            due_in: (!dead).then(|| self.backoff(topic).after(failures)),
            dead,
            holds_key: dead && self.hold_keys && record.partition_key.is_some(),
            ..Parking::waiting(record)
        }
    }
}
