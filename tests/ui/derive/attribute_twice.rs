use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", topic = "orders.placed.v1")]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
