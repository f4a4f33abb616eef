use event_box::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A customer's order was taken.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: Uuid,
    pub(crate) sku: String,
    pub(crate) quantity: i32,
    pub(crate) total_cents: i64,
}
