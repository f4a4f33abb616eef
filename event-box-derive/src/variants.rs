use syn::{DataEnum, DeriveInput, Error, Fields, Ident, Type};

use crate::parse::is_event;

/// An enum that can be expanded: each variant holds an event.
pub(crate) struct EventEnum<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) variants: Vec<Variant<'a>>,
}

pub(crate) struct Variant<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) event: &'a Type,
}

impl<'a> EventEnum<'a> {
    pub(crate) fn new(input: &'a DeriveInput, data: &'a DataEnum, errors: &mut Vec<Error>) -> Self {
        let ident = &input.ident;
        for attribute in input.attrs.iter().filter(|attribute| is_event(attribute)) {
            let mistake = format!(
                "`{ident}` takes no `#[event(..)]`: its topics, keys and versions are those of the events in its variants"
            );
            errors.push(Error::new_spanned(attribute, mistake));
        }
        if data.variants.is_empty() {
            errors.push(Error::new_spanned(ident, format!("`{ident}` has no variants: give it one for each event")));
        }
        let mut variants = Vec::new();
        for variant in &data.variants {
            match event(ident, variant) {
                Ok(event) => variants.push(Variant { name: &variant.ident, event }),
                Err(error) => errors.push(error),
            }
        }
        Self { ident, variants }
    }
}

fn event<'a>(ident: &Ident, variant: &'a syn::Variant) -> Result<&'a Type, Error> {
    let name = &variant.ident;
    if let Fields::Unnamed(fields) = &variant.fields
        && fields.unnamed.len() == 1
    {
        return Ok(&fields.unnamed[0].ty);
    }
    let holds = match &variant.fields {
        Fields::Unit => "holds no event",
        Fields::Named(_) => "has fields of its own",
        Fields::Unnamed(fields) if fields.unnamed.is_empty() => "holds no event",
        Fields::Unnamed(_) => "holds more than one value",
    };
    let mistake =
        format!("`{ident}::{name}` {holds}: write `{name}(Happened)`, where `Happened` is a type that derives `Event`");
    Err(Error::new_spanned(variant, mistake))
}
