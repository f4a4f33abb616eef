use proc_macro2::TokenStream;
use quote::{ToTokens, quote_spanned};
use syn::{Error, Ident, LitStr, Type, spanned::Spanned};

use crate::expand::at;

/// The type of the version before.
pub(crate) struct Previous {
    ty: Type,
    version: i16,
}

impl Previous {
    pub(crate) fn new(ident: &Ident, ty: Type, version: i16) -> Result<Self, Error> {
        if version > 1 {
            return Ok(Self { ty, version });
        }
        let mistake = format!(
            "nothing comes before version 1: give `{ident}` the number after that of `{}`, as in `version = 2`",
            name(&ty)
        );
        Err(Error::new_spanned(ty, mistake))
    }

    /// What only the compiler can compare: the derive sees no other type than its own.
    pub(crate) fn assertions(&self, topic: &LitStr) -> TokenStream {
        let Self { ty, version } = self;
        let (name, topic_text, before) = (name(ty), topic.value(), version - 1);
        let other_topic = format!(
            "`{name}` is stored under another topic than `{topic_text}`: give both versions the same, \
             `#[event(topic = \"{topic_text}\")]`"
        );
        let other_version = format!(
            "`version = {version}` comes after {before}, which `{name}` is not: name the type with `version = {before}` \
             as `previous`"
        );
        quote_spanned! {at(ty.span())=>
            const _: () = {
                const __TOPICS: &[&str] = <#ty as ::event_box::Event>::TOPICS;
                ::core::assert!(::event_box::__private::is_only(__TOPICS, #topic_text), #other_topic);
                // A type whose derive failed has no topics.
                ::core::assert!(__TOPICS.is_empty() || <#ty as ::event_box::Event>::VERSION == #before, #other_version);
            };
        }
    }

    /// The expression that reads this version and those before.
    pub(crate) fn decode(&self, ident: &Ident) -> TokenStream {
        let Self { ty, version } = self;
        quote_spanned! {at(ty.span())=>
            ::event_box::__private::from_json_or_previous::<#ident, #ty>(
                <#ty as ::event_box::Event>::decode, __topic, #version, __version, __payload,
            )
        }
    }
}

/// As the user wrote it.
fn name(ty: &Type) -> String {
    ty.to_token_stream().to_string().replace(' ', "")
}
