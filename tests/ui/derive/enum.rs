use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders")]
enum OrderEvent {
    Placed { order_id: i64 },
    Cancelled { order_id: i64 },
}

fn main() {}
