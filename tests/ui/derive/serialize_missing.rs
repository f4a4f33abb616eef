use event_box::Event;
use serde::Deserialize;

#[derive(Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
