use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = 7, partition_key = "ordr_id", verson = 2)]
#[event]
struct OrderPlaced {
    order_id: i64,
    #[event(topic = "orders.placed")]
    total_cents: i64,
}

fn main() {}
