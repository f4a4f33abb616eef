use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Error, Ident, LitInt, LitStr, Result, Token, Type,
    parse::{Parse, ParseStream},
};

pub(crate) fn string(input: ParseStream<'_>, name: &Ident, example: &str) -> Result<LitStr> {
    value(input, name, &format!("expected a string literal: `{name} = \"{example}\"`"))
}

/// As the log stores it: a positive `smallint`.
pub(crate) fn version(input: ParseStream<'_>, name: &Ident) -> Result<i16> {
    let literal: LitInt = value(input, name, "expected a whole number: `version = 2`")?;
    let version = literal.base10_parse().ok().filter(|version| *version > 0);
    let message = "a version is a whole number from 1 to 32767";
    version.ok_or_else(|| Error::new_spanned(&literal, message))
}

pub(crate) fn previous(input: ParseStream<'_>, name: &Ident) -> Result<Type> {
    value(input, name, "expected the type of the version before: `previous = OrderPlacedV1`")
}

fn value<T: Parse>(input: ParseStream<'_>, name: &Ident, expected: &str) -> Result<T> {
    if input.parse::<Option<Token![=]>>()?.is_none() {
        return Err(Error::new(name.span(), expected));
    }
    if input.fork().parse::<T>().is_ok() {
        return input.parse();
    }
    let value = skip(input)?;
    let place = if value.is_empty() { name.to_token_stream() } else { value };
    Err(Error::new_spanned(place, expected))
}

/// Everything up to the next comma, so that one wrong entry does not hide the mistakes in those after it.
pub(crate) fn skip(input: ParseStream<'_>) -> Result<TokenStream> {
    let mut value = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        value.extend([input.parse::<TokenTree>()?]);
    }
    Ok(value)
}
