use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Customer {
    id: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "customer.id")]
struct OrderPlaced {
    customer: Customer,
}

fn main() {}
