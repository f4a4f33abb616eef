use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "order_ids")]
struct OrdersMerged {
    order_ids: Vec<i64>,
}

fn main() {}
