use event_box::Event;
use serde::{Deserialize, Serialize};

use crate::{Counted, Tallied};

/// The `n`th event without a key.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(topic = "test.loose")]
pub(super) struct Loose {
    pub(super) n: i64,
}

/// The key under which [`Loose`] events are counted.
pub(super) const LOOSE: &str = "loose";

/// All topics, as one handler takes them. Every third of a key is a [`Tallied`].
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
pub(super) enum Any {
    Counted(Counted),
    Tallied(Tallied),
    Loose(Loose),
}

impl Any {
    pub(super) fn new(key: &str, n: i64) -> Self {
        let of = key.to_owned();
        match n % 3 {
            _ if key == LOOSE => Self::Loose(Loose { n }),
            0 => Self::Tallied(Tallied { key: of, n }),
            _ => Self::Counted(Counted { key: of, n }),
        }
    }

    pub(super) fn into_counted(self) -> Counted {
        match self {
            Self::Counted(event) => event,
            Self::Tallied(Tallied { key, n }) => Counted { key, n },
            Self::Loose(Loose { n }) => Counted { key: LOOSE.to_owned(), n },
        }
    }
}
