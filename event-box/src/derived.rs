//! What the derive's expansion calls.

use serde::{Serialize, de::DeserializeOwned};

use crate::event::{DecodeError, Event};

/// The payload of a derived event.
pub fn to_json<T: Serialize>(event: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(event)
}

/// Reads a derived event. Only where that fails is the document read again, to name the place.
pub fn from_json<T: DeserializeOwned>(topic: &str, known: i16, stored: i16, payload: &[u8]) -> Result<T, DecodeError> {
    if stored != known {
        return Err(DecodeError::Version { topic: topic.to_owned(), stored, known });
    }
    serde_json::from_slice(payload).map_err(|source| {
        let mut document = serde_json::Deserializer::from_slice(payload);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut document) {
            // `?` is its word for a document that broke off.
            Err(error) if error.path().to_string() != "?" => error.path().to_string(),
            _ => ".".to_owned(),
        };
        DecodeError::Payload { path, source }
    })
}

/// The same where `previous` reads the versions before.
pub fn from_json_or_previous<T: DeserializeOwned + Upcast<P>, P>(
    previous: fn(&str, i16, &[u8]) -> Result<P, DecodeError>,
    topic: &str,
    known: i16,
    stored: i16,
    payload: &[u8],
) -> Result<T, DecodeError> {
    if stored < known {
        return previous(topic, stored, payload).map(T::upcast);
    }
    from_json(topic, known, stored, payload)
}

/// `From`, with an error message of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from its previous version, `{P}`",
    label = "no `From` for this type",
    note = "events that were stored as `{P}` are handed out as `{Self}`: write `impl From<{P}> for {Self}`"
)]
pub trait Upcast<P> {
    /// `From::from`.
    fn upcast(previous: P) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: From<P>, P> Upcast<P> for T {
    fn upcast(previous: P) -> Self {
        Self::from(previous)
    }
}

/// A topic that none of the enum's variants has.
pub fn unknown_topic<E: Event>(topic: &str) -> DecodeError {
    DecodeError::Topic { topic: topic.to_owned(), known: E::TOPICS }
}

/// Whether a type is stored under this topic and no other. True of one whose derive failed: that is enough of an error.
pub const fn is_only(topics: &[&str], topic: &str) -> bool {
    match topics {
        [] => true,
        [only] => equal(only, topic),
        _ => false,
    }
}

/// How many topics the variants of an enum have together.
pub const fn count(variants: &[&[&str]]) -> usize {
    let (mut topics, mut i) = (0, 0);
    while i < variants.len() {
        topics += variants[i].len();
        i += 1;
    }
    topics
}

/// The topics of all variants, `N` of them.
pub const fn join<const N: usize>(variants: &[&[&'static str]]) -> [&'static str; N] {
    let mut topics = [""; N];
    let (mut n, mut i) = (0, 0);
    while i < variants.len() {
        let mut j = 0;
        while j < variants[i].len() {
            topics[n] = variants[i][j];
            n += 1;
            j += 1;
        }
        i += 1;
    }
    topics
}

/// Whether a variant before the `i`th has a topic of its.
pub const fn repeats(variants: &[&[&str]], i: usize) -> bool {
    let mut earlier = 0;
    while earlier < i {
        if overlap(variants[earlier], variants[i]) {
            return true;
        }
        earlier += 1;
    }
    false
}

/// The highest version.
pub const fn newest(versions: &[i16]) -> i16 {
    let (mut newest, mut i) = (1, 0);
    while i < versions.len() {
        if versions[i] > newest {
            newest = versions[i];
        }
        i += 1;
    }
    newest
}

const fn overlap(left: &[&str], right: &[&str]) -> bool {
    let mut i = 0;
    while i < left.len() {
        let mut j = 0;
        while j < right.len() {
            if equal(left[i], right[j]) {
                return true;
            }
            j += 1;
        }
        i += 1;
    }
    false
}

/// `==`, which a constant cannot call.
const fn equal(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut i = 0;
    while i < left.len() {
        if left[i] != right[i] {
            return false;
        }
        i += 1;
    }
    true
}
