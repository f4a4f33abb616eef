use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "sku")]
struct StockChanged<'a> {
    sku: &'a str,
}

fn main() {}
