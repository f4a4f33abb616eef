use serde_json::Value;

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

    /// As it was stored. SQL can store values that are no strings: those are given as their JSON text.
    pub(crate) fn from_json(json: &[u8]) -> Self {
        let object: serde_json::Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
        let text = |value| if let Value::String(text) = value { text } else { value.to_string() };
        Self(object.into_iter().map(|(name, value)| (name, text(value))).collect())
    }
}
