use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, parse_quote};

use crate::implementation::Implementation;

/// The errors, with an implementation that never runs: without it, every use of the type as an event would be an error
/// of its own.
pub(crate) fn event(input: &DeriveInput, errors: &[Error]) -> TokenStream {
    let ident = &input.ident;
    let errors = errors.iter().map(Error::to_compile_error);
    let mut generics = input.generics.clone();
    if !generics.params.is_empty() {
        // Without this bound, the parameters themselves would be reported: not `Send`, or too short-lived.
        let (_, arguments, _) = input.generics.split_for_impl();
        let bound = parse_quote!(#ident #arguments: ::core::marker::Send + 'static);
        generics.make_where_clause().predicates.push(bound);
    }
    let never = quote!(loop {});
    let implementation = Implementation {
        items: quote!(#(#errors)*),
        topics: quote!(&[]),
        newest: quote!(1),
        topic: never.clone(),
        version: never.clone(),
        partition_key: never.clone(),
        encode: never.clone(),
        decode: never,
    };
    implementation.of(ident, &generics)
}
