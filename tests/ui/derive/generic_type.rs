use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
struct Changed<T> {
    before: T,
    after: T,
}

fn main() {}
