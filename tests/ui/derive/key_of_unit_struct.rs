use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(partition_key = "id")]
struct DayClosed;

fn main() {}
