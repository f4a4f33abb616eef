use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
struct Changed<const N: u8> {
    id: i64,
}

fn main() {}
