//! The derive macro of event-box: use it through
//! [`event_box::Event`](https://docs.rs/event-box/latest/event_box/trait.Event.html), which documents it with an example.

mod expand;
mod fallback;
mod implementation;
mod key;
mod misplaced;
mod parse;
mod previous;
mod suggest;
mod validate;
mod value;
mod variants;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use crate::validate::Event;

/// DOCS
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    match validate::event(&input) {
        Ok(Event::Struct(event)) => expand::event_struct(&event).into(),
        Ok(Event::Enum(event)) => expand::event_enum(&event).into(),
        Err(errors) => fallback::event(&input, &errors).into(),
    }
}
