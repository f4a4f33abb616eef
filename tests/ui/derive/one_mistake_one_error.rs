use event_box::Event;

#[derive(Event)]
#[event(topics = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

fn emit(event: &impl Event) -> &'static str {
    event.topic()
}

fn main() {
    let order_ids: Vec<i64> = vec![7];
    for order_id in order_ids {
        emit(&OrderPlaced { order_id });
    }
}
