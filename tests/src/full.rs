/// Whether `EVENT_BOX_FULL` asks for the sizes that take minutes, rather than those of the ordinary run.
pub fn full() -> bool {
    std::env::var_os("EVENT_BOX_FULL").is_some_and(|value| !value.is_empty() && value != "0")
}
