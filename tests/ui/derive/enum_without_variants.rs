use event_box::Event;

#[derive(Event)]
enum OrderEvent {}

fn main() {}
