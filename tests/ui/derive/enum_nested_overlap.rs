use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.cancelled")]
struct OrderCancelled {
    order_id: i64,
}

#[derive(Event)]
enum OrderEvent {
    Placed(OrderPlaced),
    Cancelled(OrderCancelled),
}

#[derive(Event)]
enum ShopEvent {
    Order(OrderEvent),
    Cancelled(OrderCancelled),
}

fn main() {}
