use heck::ToSnakeCase;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitStr, ext::IdentExt};

use crate::{key::Key, misplaced, parse};

const TOPIC_MAX_BYTES: usize = 255;

/// A struct that can be expanded.
pub(crate) struct EventStruct<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) topic: LitStr,
    pub(crate) key: Option<Key<'a>>,
}

pub(crate) fn event(input: &DeriveInput) -> Result<EventStruct<'_>, Vec<Error>> {
    let ident = &input.ident;
    let mut errors = Vec::new();
    let attributes = parse::attributes(input, &mut errors);
    misplaced::attributes(input, &mut errors);
    errors.extend(generics(input).err());
    let topic = topic(ident, attributes.topic).map_err(|error| errors.push(error));
    let key = fields(input)
        .and_then(|fields| attributes.partition_key.map(|name| Key::find(ident, fields, &name)).transpose())
        .map_err(|error| errors.push(error));
    match (topic, key) {
        (Ok(topic), Ok(key)) if errors.is_empty() => Ok(EventStruct { ident, topic, key }),
        _ => Err(errors),
    }
}

fn generics(input: &DeriveInput) -> Result<(), Error> {
    if input.generics.params.is_empty() {
        return Ok(());
    }
    let message = "an event has no type, const or lifetime parameters: use concrete types that own their data";
    Err(Error::new_spanned(&input.generics, message))
}

fn fields(input: &DeriveInput) -> Result<&Fields, Error> {
    let (place, message) = match &input.data {
        Data::Struct(data) => return Ok(&data.fields),
        Data::Enum(data) => {
            (data.enum_token.span, "`Event` cannot be derived for an enum: derive it on a struct for each variant")
        }
        Data::Union(data) => (data.union_token.span, "`Event` cannot be derived for a union: derive it on a struct"),
    };
    Err(Error::new(place, message))
}

fn topic(ident: &Ident, given: Option<LitStr>) -> Result<LitStr, Error> {
    let topic = given.unwrap_or_else(|| LitStr::new(&ident.unraw().to_string().to_snake_case(), ident.span()));
    let value = topic.value();
    let mistake = if value.is_empty() {
        "the topic is empty: name it, as in `topic = \"orders.placed\"`".to_owned()
    } else if value.len() > TOPIC_MAX_BYTES {
        format!("the topic is {} bytes long, the most is {TOPIC_MAX_BYTES}", value.len())
    } else if value.contains('\0') {
        "the topic contains a NUL character, which PostgreSQL cannot store".to_owned()
    } else {
        return Ok(topic);
    };
    Err(Error::new(topic.span(), mistake))
}
