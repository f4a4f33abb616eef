use crate::parked_state::ParkedState;

/// Which parked events [`ConsumerGroup::parked`](crate::ConsumerGroup::parked) lists. Default: the first 100 of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedFilter {
    states: Option<Vec<ParkedState>>,
    pub(crate) topic: Option<String>,
    pub(crate) partition_key: Option<String>,
    pub(crate) after: i64,
    pub(crate) limit: i64,
}

impl Default for ParkedFilter {
    fn default() -> Self {
        Self { states: None, topic: None, partition_key: None, after: 0, limit: 100 }
    }
}

impl ParkedFilter {
    /// Everything that is parked, 100 events a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Dead letters alone, whether or not they hold their key.
    pub fn dead_letters() -> Self {
        Self::new().states([ParkedState::Dead, ParkedState::DeadHoldingKey])
    }

    /// Events in one of these states alone. Default: in any.
    pub fn states(mut self, states: impl IntoIterator<Item = ParkedState>) -> Self {
        self.states = Some(states.into_iter().collect());
        self
    }

    /// Events of this topic alone. Default: of any.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Events of this partition key alone. Default: of any, and those without.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Events with a higher sequence than this: the last one of the page before. Default: 0, the first page.
    pub fn after(mut self, sequence: i64) -> Self {
        self.after = sequence;
        self
    }

    /// At most this many events. Default: 100.
    pub fn limit(mut self, events: u32) -> Self {
        self.limit = events.into();
        self
    }

    pub(crate) fn state_texts(&self) -> Option<Vec<String>> {
        self.states.as_ref().map(|states| states.iter().map(|state| state.as_str().to_owned()).collect())
    }

    /// Only dead letters can pass: they have an index of their own.
    pub(crate) fn is_dead(&self) -> bool {
        let dead = |state: &ParkedState| matches!(state, ParkedState::Dead | ParkedState::DeadHoldingKey);
        self.states.as_ref().is_some_and(|states| states.iter().all(dead))
    }
}
