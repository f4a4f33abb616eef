use event_box::Event;
use serde::{Deserialize, Serialize};

const ORDERS_PLACED: &str = "orders.placed";

#[derive(Serialize, Deserialize, Event)]
#[event(topic = self::ORDERS_PLACED)]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
