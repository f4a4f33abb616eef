use std::{fmt, str::FromStr};

/// Why a parked event is not handled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParkedState {
    /// It waits behind an earlier event of its key.
    Waiting,
    /// It is tried when it falls due.
    Retrying,
    /// Its handler asked for it later.
    Snoozed,
    /// It waits for a process that has a handler for its topic.
    NoHandler,
    /// It failed for good; its key, where it has one, goes on without it.
    Dead,
    /// It failed for good, and its key waits until a person decides.
    DeadHoldingKey,
}

impl ParkedState {
    /// Its name, as people and programs read it: `waiting`, `retrying`, `snoozed`, `no_handler`, `dead` or `dead_holding_key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Snoozed => "snoozed",
            Self::NoHandler => "no_handler",
            Self::Dead => "dead",
            Self::DeadHoldingKey => "dead_holding_key",
        }
    }

    const ALL: [Self; 6] =
        [Self::Waiting, Self::Retrying, Self::Snoozed, Self::NoHandler, Self::Dead, Self::DeadHoldingKey];
}

impl fmt::Display for ParkedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No parked event is in a state of that name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a state of parked events: use waiting, retrying, snoozed, no_handler, dead or dead_holding_key")]
pub struct ParkedStateError(String);

impl FromStr for ParkedState {
    type Err = ParkedStateError;

    fn from_str(text: &str) -> Result<Self, ParkedStateError> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| ParkedStateError(text.to_owned()))
    }
}
