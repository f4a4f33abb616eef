use crate::{
    backoff::Backoff,
    check::{LogError, check},
    event::Event,
    event_box::EventBox,
    group::{self, Start},
    held::Held,
    policy::Policy,
    pull::Pull,
    pull_error::PullError,
};

/// Settings of a [`Pull`].
#[derive(Debug, Clone)]
#[must_use = "nothing is pulled until it is opened"]
pub struct PullBuilder {
    log: EventBox,
    group: String,
    topics: Vec<String>,
    start: Start,
    policy: Policy,
}

impl PullBuilder {
    /// Pulls for the group `group` of a log: a pool, or an [`EventBox`]. The group is made when it is first opened, and known by its name
    /// alone, 1 to 255 bytes.
    pub fn new(log: impl Into<EventBox>, group: impl Into<String>) -> Self {
        let (log, group) = (log.into(), group.into());
        Self { log, group, topics: Vec::new(), start: Start::Beginning, policy: Policy::default() }
    }

    /// Pulls events of this type, of all its topics.
    pub fn event<E: Event>(mut self) -> Self {
        self.topics.extend(E::TOPICS.iter().map(|topic| (*topic).to_owned()));
        self
    }

    /// Pulls events of this topic, whatever their type.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// A new group starts with what is committed from now on. Default: with the oldest event still in the log.
    pub fn from_now(mut self) -> Self {
        self.start = Start::Now;
        self
    }

    /// After how many failed attempts an event becomes a dead letter. Default: 15.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.max_attempts = attempts;
        self
    }

    /// How long a failed event waits before it is given out again. Default: from 1 s to 4 h, see [`Backoff`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// Later events of a dead letter's key wait until a person decides. Default: the key goes on without it.
    pub fn hold_keys(mut self) -> Self {
        self.policy.hold_keys = true;
        self
    }

    /// Checks the log and makes the group.
    ///
    /// # Errors
    /// Where no topic was given, the group's name cannot be one, the group runs in another mode, or the log is not one that events can be
    /// delivered from.
    pub async fn open(self) -> Result<Pull, PullError> {
        let Self { log, group, mut topics, start, policy } = self;
        topics.sort();
        topics.dedup();
        if topics.is_empty() {
            return Err(PullError::NoTopic { group });
        }
        if group.is_empty() || group.len() > 255 || group.contains('\0') {
            return Err(PullError::GroupName { group });
        }
        let database = |error| LogError::from_database(error, log.schema());
        let mut held = Held::acquire(log.pool()).await.map_err(database)?;
        let connection = held.connection().map_err(database)?;
        check(connection, log.schema()).await?;
        let registered = group::register(connection, log.schema(), &group, &topics, policy.mode, start).await;
        let stored = registered.map_err(database)?;
        held.give_back();
        if stored != policy.mode.text() {
            return Err(PullError::Mode { group, stored });
        }
        let (ready, bound, pulse) = Default::default();
        Ok(Pull { log, group, topics, policy, ready, bound, pulse })
    }
}
