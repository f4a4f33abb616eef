use event_box::Event;

#[derive(Event)]
struct Changed<'a, T: Clone, const N: usize>
where
    T: Copy,
{
    values: &'a [T; N],
}

fn emit(_: &impl Event) {}

fn main() {
    emit(&Changed { values: &[7] });
}
