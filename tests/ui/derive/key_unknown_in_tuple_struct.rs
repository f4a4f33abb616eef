use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "1")]
struct OrderPlaced(i64);

fn main() {}
