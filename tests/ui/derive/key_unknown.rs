use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "customer")]
struct OrderPlaced {
    order_id: i64,
    r#type: String,
    total_cents: i64,
}

fn main() {}
