use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, parse_quote};

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
    let (parameters, arguments, bounds) = generics.split_for_impl();
    quote! {
        #(#errors)*
        const _: () = {
            #[automatically_derived]
            impl #parameters ::event_box::Event for #ident #arguments #bounds {
                const TOPICS: &'static [&'static str] = &[];

                fn topic(&self) -> &'static str {
                    loop {}
                }

                fn partition_key(&self) -> ::core::option::Option<::std::borrow::Cow<'_, str>> {
                    loop {}
                }

                fn encode(
                    &self,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, ::event_box::__private::serde_json::Error> {
                    loop {}
                }

                fn decode(_: &str, _: i16, _: &[u8]) -> ::core::result::Result<Self, ::event_box::DecodeError> {
                    loop {}
                }
            }
        };
    }
}
