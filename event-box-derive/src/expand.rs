use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Generics, spanned::Spanned};

use crate::{
    implementation::Implementation,
    key::Key,
    validate::EventStruct,
    variants::{EventEnum, Variant},
};

/// Where the compiler reports what the user's own tokens lack, with names that resolve as they do in the expansion.
pub(crate) fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

pub(crate) fn event_struct(event: &EventStruct<'_>) -> TokenStream {
    let EventStruct { ident, topic, key, version, previous } = event;
    let here = at(ident.span());
    // Written out wherever it is needed: `Self::VERSION` would report a type that is not `Send` a second time.
    let number = quote!(#version);
    let (items, decode) = match previous {
        Some(previous) => (previous.assertions(topic), previous.decode(ident)),
        None => {
            let read = quote_spanned!(here=> ::event_box::__private::from_json::<#ident>);
            (TokenStream::new(), quote!(#read(__topic, #version, __version, __payload)))
        }
    };
    let implementation = Implementation {
        items,
        topics: quote!(&[#topic]),
        newest: number.clone(),
        topic: quote!(#topic),
        version: number,
        partition_key: key.as_ref().map_or_else(|| quote!(::core::option::Option::None), Key::text),
        encode: quote_spanned!(here=> ::event_box::__private::to_json::<#ident>(self)),
        decode,
    };
    implementation.of(ident, &Generics::default())
}

pub(crate) fn event_enum(event: &EventEnum<'_>) -> TokenStream {
    let EventEnum { ident, variants } = event;
    let names: Vec<_> = variants.iter().map(|Variant { name, .. }| name).collect();
    let constant = |name: &str| {
        let constants = variants.iter().map(|Variant { event, .. }| {
            let constant = syn::Ident::new(name, Span::call_site());
            quote_spanned!(at(event.span())=> <#event as ::event_box::Event>::#constant)
        });
        quote!(&[#(#constants),*])
    };
    let (topics, versions) = (constant("TOPICS"), constant("VERSION"));
    let inner = |method: &str| {
        let calls = variants.iter().map(|Variant { name, event }| {
            let method = syn::Ident::new(method, Span::call_site());
            let call = quote_spanned!(at(event.span())=> <#event as ::event_box::Event>::#method);
            quote!(Self::#name(__event) => #call(__event))
        });
        quote!(match self { #(#calls,)* })
    };
    let assertions = variants.iter().enumerate().skip(1).map(|(i, Variant { name, event })| {
        let message = format!(
            "`{name}` has a topic that a variant before it has too, and an event is told apart by its topic: keep one \
             variant for each topic, and read older versions by `#[event(previous = ..)]`"
        );
        quote_spanned! {at(event.span())=>
            const _: () = ::core::assert!(!::event_box::__private::repeats(__TOPICS, #i), #message);
        }
    });
    let events =
        variants.iter().map(|Variant { event, .. }| quote_spanned!(at(event.span())=> <#event as ::event_box::Event>));
    let places = 0..variants.len();
    let implementation = Implementation {
        items: quote! {
            const __TOPICS: &[&[&str]] = #topics;
            #(#assertions)*
        },
        topics: quote!(&::event_box::__private::join::<{ ::event_box::__private::count(__TOPICS) }>(__TOPICS)),
        newest: quote!(::event_box::__private::newest(#versions)),
        topic: inner("topic"),
        version: inner("version"),
        partition_key: inner("partition_key"),
        encode: inner("encode"),
        decode: quote! {
            #(
                if __TOPICS[#places].contains(&__topic) {
                    return #events::decode(__topic, __version, __payload).map(Self::#names);
                }
            )*
            ::core::result::Result::Err(::event_box::__private::unknown_topic::<Self>(__topic))
        },
    };
    implementation.of(ident, &Generics::default())
}
