use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(version = 1.5)]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
