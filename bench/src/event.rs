//! The events of the benchmark.

use event_box::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An event whose JSON has about 150 bytes.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub struct OrderPlaced {
    /// Its partition key.
    pub order_id: i64,
    customer: String,
    total_cents: i64,
    currency: String,
    note: String,
}

impl OrderPlaced {
    /// The order of this number; all else is the same in each.
    pub fn new(order_id: i64) -> Self {
        Self {
            order_id,
            customer: Uuid::nil().to_string(),
            total_cents: 12_345,
            currency: "EUR".to_owned(),
            note: "please ring twice".to_owned(),
        }
    }

    /// Its payload as the raw sides write it, by the same serialisation.
    ///
    /// # Errors
    /// None that an event like this can meet.
    pub fn text(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.encode()?)?)
    }
}

/// The same, of a topic that no group of the benchmark reads.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(topic = "orders.unread", partition_key = "order_id")]
pub struct Unread {
    /// Its partition key.
    pub order_id: i64,
}
