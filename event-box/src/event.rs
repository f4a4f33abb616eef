use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};

/// Something that happened, as it is written to the log and handed to handlers.
///
/// Derive it: `#[derive(Event)]` with `#[event(topic = "orders.placed", partition_key = "order_id")]`. The derive needs
/// [`serde::Serialize`] and [`serde::Deserialize`] on the type.
///
/// ```
/// use event_box::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "orders.placed", partition_key = "order_id")]
/// struct OrderPlaced {
///     order_id: i64,
///     total_cents: i64,
/// }
///
/// assert_eq!(OrderPlaced::TOPICS, ["orders.placed"]);
/// let event = OrderPlaced { order_id: 7, total_cents: 995 };
/// assert_eq!(event.partition_key().as_deref(), Some("7"));
/// assert_eq!(event.encode().unwrap(), br#"{"order_id":7,"total_cents":995}"#);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(serde::Serialize, serde::Deserialize, event_box::Event)]` to `{Self}`"
)]
pub trait Event: Sized + Send + 'static {
    /// Every topic this type is stored under: one for a struct.
    const TOPICS: &'static [&'static str];
    /// The version this code writes, 1 or more. Default: 1.
    const VERSION: i16 = 1;

    /// The topic of this very event, one of [`TOPICS`](Self::TOPICS): 1 to 255 bytes.
    fn topic(&self) -> &'static str;

    /// The version this very event is stored with. Default: [`VERSION`](Self::VERSION).
    fn version(&self) -> i16 {
        Self::VERSION
    }

    /// Events of one key are handled in order; `None` means no order. 1 to 512 bytes.
    fn partition_key(&self) -> Option<Cow<'_, str>>;

    /// The payload: JSON, stored byte for byte.
    ///
    /// # Errors
    /// Where the value has no JSON form, such as a map whose keys are not strings.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;

    /// Reads back what was stored as `topic` in `version`.
    ///
    /// # Errors
    /// Where the payload does not fit the type, or the version is not known to this code.
    fn decode(topic: &str, version: i16, payload: &[u8]) -> Result<Self, DecodeError>;
}

/// Why a stored event could not be read as the type a handler takes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload does not fit the type.
    #[error("the payload does not fit at `{path}`")]
    Payload {
        /// Where in the document, such as `lines[2].sku`; `.` is the whole document.
        path: String,
        /// What was wrong there.
        source: serde_json::Error,
    },
    /// The event was stored in a version that this code does not know.
    #[error(
        "`{topic}` is stored in version {stored}, this code knows version {known}: deploy the newer code, or requeue once it runs"
    )]
    Version {
        /// The event's topic.
        topic: String,
        /// The version it was stored with.
        stored: i16,
        /// The newest version this code reads.
        known: i16,
    },
}

/// The payload of a derived event.
#[doc(hidden)]
pub fn to_json<T: Serialize>(event: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(event)
}

/// Reads a derived event. Only where that fails is the document read again, to name the place.
#[doc(hidden)]
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
