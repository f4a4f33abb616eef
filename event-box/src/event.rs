use std::borrow::Cow;

/// Something that happened, as it is written to the log and handed to handlers.
///
/// Derive it: `#[derive(Event)]` with `#[event(topic = "orders.placed", partition_key = "order_id")]`. The derive needs
/// [`serde::Serialize`] and [`serde::Deserialize`] on the type. [The derive's own page](macro@crate::Event) tells how events change their
/// shape (`version`, `previous`) and how an enum joins several.
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
    note = "add `#[derive(serde::Serialize, serde::Deserialize, event_box::Event)]` to `{Self}`",
    note = "a handler takes its event first, and by value"
)]
pub trait Event: Sized + Send + 'static {
    /// Every topic this type is stored under: one for a struct, those of all its variants for an enum.
    const TOPICS: &'static [&'static str];
    /// The version this code writes, 1 or more; for an enum, the newest of its variants'. Default: 1.
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

/// Boxed, as where one variant of an enum is much larger than the others.
#[diagnostic::do_not_recommend]
impl<E: Event> Event for Box<E> {
    const TOPICS: &'static [&'static str] = E::TOPICS;
    const VERSION: i16 = E::VERSION;

    fn topic(&self) -> &'static str {
        (**self).topic()
    }

    fn version(&self) -> i16 {
        (**self).version()
    }

    fn partition_key(&self) -> Option<Cow<'_, str>> {
        (**self).partition_key()
    }

    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        (**self).encode()
    }

    fn decode(topic: &str, version: i16, payload: &[u8]) -> Result<Self, DecodeError> {
        E::decode(topic, version, payload).map(Self::new)
    }
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
    /// The event was stored in a version that this code does not read: newer than it knows, or older than it still reads.
    #[error("`{topic}` is stored in version {stored}, {}", remedy(*stored, *known))]
    Version {
        /// The event's topic.
        topic: String,
        /// The version it was stored with.
        stored: i16,
        /// The nearest version this code reads: the newest it knows where `stored` is above, else the oldest.
        known: i16,
    },
    /// An enum of events has no variant for the topic. Only a call by hand meets this: handlers are given the topics of their event.
    #[error("`{topic}` is not a topic of this event: its topics are `{}`", known.join("`, `"))]
    Topic {
        /// The topic.
        topic: String,
        /// The type's own.
        known: &'static [&'static str],
    },
}

fn remedy(stored: i16, known: i16) -> String {
    if stored > known {
        return format!(
            "the newest this code reads is {known}: deploy the newer code, or requeue the event once it runs"
        );
    }
    format!(
        "the oldest this code reads is {known}: name the type of version {} by `#[event(previous = ..)]`",
        known - 1
    )
}
