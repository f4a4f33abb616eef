use event_box::Event;
use serde::{Deserialize, Serialize};

struct OrderPlacedV1 {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", version = 2, previous = OrderPlacedV1)]
struct OrderPlaced {
    order_id: i64,
}

impl From<OrderPlacedV1> for OrderPlaced {
    fn from(OrderPlacedV1 { order_id }: OrderPlacedV1) -> Self {
        Self { order_id }
    }
}

fn main() {}
