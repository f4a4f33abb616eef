//! The derive macro of event-box: use it through
//! [`event_box::Event`](https://docs.rs/event-box/latest/event_box/trait.Event.html), which documents it with an example.

mod expand;
mod fallback;
mod key;
mod misplaced;
mod parse;
mod suggest;
mod validate;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `event_box::Event` for a struct that also derives `serde::Serialize` and `serde::Deserialize`.
///
/// `#[event(..)]` on the struct takes:
///
/// - `topic = "orders.placed"`: 1 to 255 bytes. Default: the struct's name in snake case.
/// - `partition_key = "order_id"`: the field that keys the event, whose type implements `event_box::PartitionKey`; in a
///   tuple struct, `"0"` is the first field. Default: no key, so no order.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    match validate::event(&input) {
        Ok(event) => expand::event(&event).into(),
        Err(errors) => fallback::event(&input, &errors).into(),
    }
}
