use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, DeriveInput, Error, Ident, LitStr, Meta, Result, Token, ext::IdentExt, parse::ParseStream};

use crate::suggest::instead_of;

const TOPIC: &str = "topic";
const PARTITION_KEY: &str = "partition_key";

/// What stands in `#[event(..)]`, not yet held against the struct.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) topic: Option<LitStr>,
    pub(crate) partition_key: Option<LitStr>,
}

pub(crate) fn attributes(input: &DeriveInput, errors: &mut Vec<Error>) -> Attributes {
    let mut found = Attributes::default();
    for attribute in input.attrs.iter().filter(|attribute| is_event(attribute)) {
        let entries = |entries: ParseStream<'_>| parse_entries(entries, &mut found, errors);
        let parsed = match &attribute.meta {
            Meta::List(list) => list.parse_args_with(entries),
            meta => Err(Error::new_spanned(meta, "expected a list: `#[event(topic = \"orders.placed\")]`")),
        };
        errors.extend(parsed.err());
    }
    found
}

pub(crate) fn is_event(attribute: &Attribute) -> bool {
    attribute.path().is_ident("event")
}

fn parse_entries(input: ParseStream<'_>, found: &mut Attributes, errors: &mut Vec<Error>) -> Result<()> {
    while !input.is_empty() {
        if let Err(error) = parse_entry(input, found) {
            errors.push(error);
            skip_value(input)?;
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn parse_entry(input: ParseStream<'_>, found: &mut Attributes) -> Result<()> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error("expected `topic = \"..\"` or `partition_key = \"..\"`"));
    }
    let name = input.call(Ident::parse_any)?;
    let (slot, example) = match name.to_string().as_str() {
        TOPIC => (&mut found.topic, "orders.placed"),
        PARTITION_KEY => (&mut found.partition_key, "order_id"),
        unknown => {
            let instead = instead_of(unknown, &[TOPIC.into(), PARTITION_KEY.into()]);
            return Err(Error::new(name.span(), format!("unknown event attribute `{unknown}`, {instead}")));
        }
    };
    if slot.is_some() {
        return Err(Error::new(name.span(), format!("`{name}` is given twice: keep one")));
    }
    *slot = Some(parse_string(input, &name, example)?);
    Ok(())
}

fn parse_string(input: ParseStream<'_>, name: &Ident, example: &str) -> Result<LitStr> {
    let expected = format!("expected a string literal: `{name} = \"{example}\"`");
    if input.parse::<Option<Token![=]>>()?.is_none() {
        return Err(Error::new(name.span(), expected));
    }
    if input.peek(LitStr) {
        return input.parse();
    }
    let value = skip_value(input)?;
    let place = if value.is_empty() { name.to_token_stream() } else { value };
    Err(Error::new_spanned(place, expected))
}

/// Everything up to the next comma, so that one wrong entry does not hide the mistakes in those after it.
fn skip_value(input: ParseStream<'_>) -> Result<TokenStream> {
    let mut value = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        value.extend([input.parse::<TokenTree>()?]);
    }
    Ok(value)
}
