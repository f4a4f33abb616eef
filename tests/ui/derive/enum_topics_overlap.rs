use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.changed")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.changed")]
struct OrderCancelled {
    order_id: i64,
}

#[derive(Event)]
enum OrderEvent {
    Placed(OrderPlaced),
    Cancelled(OrderCancelled),
}

fn main() {}
