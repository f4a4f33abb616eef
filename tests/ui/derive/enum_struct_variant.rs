use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Event)]
enum OrderEvent {
    Placed(OrderPlaced),
    Cancelled { order_id: i64 },
}

fn main() {}
