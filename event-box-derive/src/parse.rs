use syn::{Attribute, DeriveInput, Error, Ident, LitStr, Meta, Result, Token, Type, ext::IdentExt, parse::ParseStream};

use crate::{suggest::instead_of, value};

const TOPIC: &str = "topic";
const PARTITION_KEY: &str = "partition_key";
const VERSION: &str = "version";
const PREVIOUS: &str = "previous";

/// What stands in `#[event(..)]`, not yet held against the struct.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) topic: Option<LitStr>,
    pub(crate) partition_key: Option<LitStr>,
    pub(crate) version: Option<i16>,
    pub(crate) previous: Option<Type>,
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
            value::skip(input)?;
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn parse_entry(input: ParseStream<'_>, found: &mut Attributes) -> Result<()> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error("expected an attribute with its name: `topic = \"orders.placed\"`"));
    }
    let name = input.call(Ident::parse_any)?;
    match name.to_string().as_str() {
        TOPIC => once(&mut found.topic, &name, || value::string(input, &name, "orders.placed")),
        PARTITION_KEY => once(&mut found.partition_key, &name, || value::string(input, &name, "order_id")),
        VERSION => once(&mut found.version, &name, || value::version(input, &name)),
        PREVIOUS => once(&mut found.previous, &name, || value::previous(input, &name)),
        unknown => {
            let instead = instead_of(unknown, &[TOPIC, PARTITION_KEY, VERSION, PREVIOUS].map(str::to_owned));
            Err(Error::new(name.span(), format!("unknown event attribute `{unknown}`, {instead}")))
        }
    }
}

fn once<T>(slot: &mut Option<T>, name: &Ident, parse: impl FnOnce() -> Result<T>) -> Result<()> {
    if slot.is_some() {
        return Err(Error::new(name.span(), format!("`{name}` is given twice: keep one")));
    }
    *slot = Some(parse()?);
    Ok(())
}
