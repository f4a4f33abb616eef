use proc_macro2::TokenStream;
use quote::quote;
use syn::{Generics, Ident};

/// What the methods of `impl Event` do.
pub(crate) struct Implementation {
    /// Items beside it: constants and assertions.
    pub(crate) items: TokenStream,
    pub(crate) topics: TokenStream,
    pub(crate) newest: TokenStream,
    pub(crate) topic: TokenStream,
    pub(crate) version: TokenStream,
    pub(crate) partition_key: TokenStream,
    pub(crate) encode: TokenStream,
    /// Has `__topic`, `__version` and `__payload`.
    pub(crate) decode: TokenStream,
}

impl Implementation {
    pub(crate) fn of(self, ident: &Ident, generics: &Generics) -> TokenStream {
        let Self { items, topics, newest, topic, version, partition_key, encode, decode } = self;
        let (parameters, arguments, bounds) = generics.split_for_impl();
        // A parameter is not hygienic against a user's `static` or `const` of the same name, hence the underscores.
        quote! {
            const _: () = {
                #items

                #[automatically_derived]
                impl #parameters ::event_box::Event for #ident #arguments #bounds {
                    const TOPICS: &'static [&'static str] = #topics;
                    const VERSION: i16 = #newest;

                    fn topic(&self) -> &'static str {
                        #topic
                    }

                    fn version(&self) -> i16 {
                        #version
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
                        #decode
                    }
                }
            };
        }
    }
}
