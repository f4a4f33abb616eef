use event_box::Event;

#[derive(Event)]
struct OrderPlaced {
    order_id: i64,
}

fn main() {}
