use heck::ToSnakeCase;
use syn::{Data, DeriveInput, Error, Fields, GenericParam, Generics, Ident, LitStr, ext::IdentExt};

use crate::{
    key::Key,
    misplaced,
    parse::{self, Attributes},
    previous::Previous,
    variants::EventEnum,
};

const TOPIC_MAX_BYTES: usize = 255;

/// What can be expanded.
pub(crate) enum Event<'a> {
    Struct(Box<EventStruct<'a>>),
    Enum(EventEnum<'a>),
}

pub(crate) struct EventStruct<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) topic: LitStr,
    pub(crate) key: Option<Key<'a>>,
    pub(crate) version: i16,
    pub(crate) previous: Option<Previous>,
}

pub(crate) fn event(input: &DeriveInput) -> Result<Event<'_>, Vec<Error>> {
    let mut errors = Vec::new();
    let event = match &input.data {
        Data::Struct(data) => event_struct(input, &data.fields, &mut errors).map(|event| Event::Struct(event.into())),
        Data::Enum(data) => Some(Event::Enum(EventEnum::new(input, data, &mut errors))),
        Data::Union(data) => {
            let message = "`Event` cannot be derived for a union: derive it on a struct, or an enum of events";
            errors.push(Error::new(data.union_token.span, message));
            None
        }
    };
    misplaced::attributes(input, &mut errors);
    errors.extend(generics(&input.generics));
    event.filter(|_| errors.is_empty()).ok_or(errors)
}

fn event_struct<'a>(input: &'a DeriveInput, fields: &'a Fields, errors: &mut Vec<Error>) -> Option<EventStruct<'a>> {
    let ident = &input.ident;
    let Attributes { topic, partition_key, version, previous } = parse::attributes(input, errors);
    let version_is_known = errors.is_empty();
    let version = version.unwrap_or(1);
    let topic = checked_topic(ident, topic).map_err(|error| errors.push(error));
    let key = partition_key.map(|name| Key::find(ident, fields, &name)).transpose().map_err(|error| errors.push(error));
    let previous = previous.filter(|_| version_is_known).map(|ty| Previous::new(ident, ty, version)).transpose();
    let previous = previous.map_err(|error| errors.push(error));
    Some(EventStruct { ident, topic: topic.ok()?, key: key.ok()?, version, previous: previous.ok()? })
}

fn generics(generics: &Generics) -> Option<Error> {
    if generics.params.is_empty() {
        return None;
    }
    let message = if generics.params.iter().all(|parameter| matches!(parameter, GenericParam::Lifetime(_))) {
        "an event has no lifetime parameters: let it own its data, as a handler's copy comes from the log"
    } else {
        "an event has no type or const parameters, as its topic stands for one kind of payload: use concrete types, as in \
         `struct PriceChanged(Changed<Price>);`"
    };
    Some(Error::new_spanned(generics, message))
}

fn checked_topic(ident: &Ident, given: Option<LitStr>) -> Result<LitStr, Error> {
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
