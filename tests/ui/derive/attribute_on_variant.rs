use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
enum OrderEvent {
    #[event(topic = "orders.placed")]
    Placed { order_id: i64 },
}

fn main() {}
