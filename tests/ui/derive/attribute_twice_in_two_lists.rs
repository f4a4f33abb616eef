use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "order_id")]
#[event(topic = "orders.placed", partition_key = "order_id")]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
