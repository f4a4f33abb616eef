use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "ordr_id")]
struct OrderPlaced {
    order_id: i64,
    total_cents: i64,
}

fn main() {}
