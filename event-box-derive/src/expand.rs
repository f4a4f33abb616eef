use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use crate::{key::Key, validate::EventStruct};

/// Written out wherever it is needed: `Self::VERSION` would report a type that is not `Send` a second time.
const VERSION: i16 = 1;

pub(crate) fn event(event: &EventStruct<'_>) -> TokenStream {
    let EventStruct { ident, topic, key } = event;
    let partition_key = partition_key(key.as_ref());
    // The compiler reports what the type lacks at the calls that need it.
    let at_name = Span::call_site().located_at(ident.span());
    let encode = quote_spanned! {at_name=> ::event_box::__private::to_json::<#ident>(self) };
    let decode = quote_spanned! {at_name=> ::event_box::__private::from_json::<#ident> };
    // A parameter is not hygienic against a user's `static` or `const` of the same name, hence the underscores.
    quote! {
        const _: () = {
            #[automatically_derived]
            impl ::event_box::Event for #ident {
                const TOPICS: &'static [&'static str] = &[#topic];
                const VERSION: i16 = #VERSION;

                fn topic(&self) -> &'static str {
                    #topic
                }

                fn partition_key(&self) -> ::core::option::Option<::std::borrow::Cow<'_, str>> {
                    #partition_key
                }

                fn encode(
                    &self,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, ::event_box::__private::serde_json::Error>
                {
                    #encode
                }

                fn decode(
                    __topic: &str,
                    __version: i16,
                    __payload: &[u8],
                ) -> ::core::result::Result<Self, ::event_box::DecodeError> {
                    #decode(__topic, #VERSION, __version, __payload)
                }
            }
        };
    }
}

fn partition_key(key: Option<&Key<'_>>) -> TokenStream {
    match key {
        Some(Key { member, ty }) => quote! {
            <#ty as ::event_box::PartitionKey>::partition_key(&self.#member)
        },
        None => quote!(::core::option::Option::None),
    }
}
