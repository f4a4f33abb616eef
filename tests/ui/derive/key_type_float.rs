use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "prices.changed", partition_key = "price")]
struct PriceChanged {
    price: f64,
}

fn main() {}
