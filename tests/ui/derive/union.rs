use event_box::Event;

#[derive(Event)]
union Number {
    signed: i64,
    unsigned: u64,
}

fn main() {}
