use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Event)]
#[event(topic = "orders", partition_key = "order_id")]
enum OrderEvent {
    Placed(OrderPlaced),
}

fn main() {}
