use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    #[event(partition_key)]
    order_id: i64,
}

fn main() {}
