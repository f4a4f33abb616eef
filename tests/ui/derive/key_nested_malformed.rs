use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Customer {
    id: i64,
    balance: f64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "customer..id")]
struct OrderPlaced {
    order_id: i64,
    customer: Customer,
}

fn main() {}
