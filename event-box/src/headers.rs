use std::{collections::BTreeMap, fmt};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};

/// Names and values that travel beside an event's payload: tenant, trace context, content hints.
///
/// Names are 1 to 128 ASCII letters, digits, `-`, `_` or `.`, so that every broker can carry them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; names are compared exactly.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Every name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How large names and values are together.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Sets a header; a name given twice keeps the later value.
    pub(crate) fn set(&mut self, name: String, value: String) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    /// The first name that is not one.
    pub(crate) fn invalid_name(&self) -> Option<&str> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let valid = |name: &str| (1..=128).contains(&name.len()) && name.chars().all(allowed);
        self.iter().map(|(name, _)| name).find(|name| !valid(name))
    }

    /// As it is stored: a JSON object, or nothing.
    pub(crate) fn to_json(&self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let object: serde_json::Map<_, _> =
            self.0.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        Some(Value::Object(object).to_string().into_bytes())
    }

    /// As it was stored. SQL can store values that are no strings, and strings with half a surrogate pair: those are given as their JSON
    /// text. Of a name given twice the later value counts.
    pub(crate) fn from_json(json: &[u8]) -> Self {
        serde_json::Deserializer::from_slice(json).deserialize_map(Stored).unwrap_or_default()
    }
}

/// Each value by itself: one that Rust cannot hold must not cost the others.
struct Stored;

impl<'de> Visitor<'de> for Stored {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Headers, A::Error> {
        let text = |json: &RawValue| serde_json::from_str(json.get()).unwrap_or_else(|_| json.get().to_owned());
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = object.next_entry::<&RawValue, &RawValue>()? {
            headers.insert(text(name), text(value));
        }
        Ok(Headers(headers.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sql_stored_is_read_value_by_value() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let json = format!(
            r#" {{"text": "a\u0000\ud83d\ude00", "half": "\ud800", "\udc00": "x", "number": 1.10, "huge": 1e999,
                 "twice": "1", "deep": {deep}, "none": null, "object": {{"a" : 1}}, "twice": "2", "": ""}} "#
        );
        let headers = Headers::from_json(json.as_bytes());
        for (name, value) in [
            ("text", "a\0\u{1F600}"),
            ("half", r#""\ud800""#),
            (r#""\udc00""#, "x"),
            ("number", "1.10"),
            ("huge", "1e999"),
            ("deep", deep.as_str()),
            ("none", "null"),
            ("object", r#"{"a" : 1}"#),
            ("twice", "2"),
            ("", ""),
        ] {
            assert_eq!(headers.get(name), Some(value), "{name}");
        }
        assert_eq!(headers.len(), 10);
    }
}
