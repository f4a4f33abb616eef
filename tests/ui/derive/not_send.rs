use std::rc::Rc;

use event_box::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
    #[serde(skip)]
    note: Rc<str>,
}

fn main() {}
