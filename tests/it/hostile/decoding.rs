//! What the derive's expansion makes of bytes: an event, or an error that says why; never a panic, never another event.

use event_box::{DecodeError, Event};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{config, documents};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "id")]
struct PlacedV1 {
    id: i64,
    euros: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "id", version = 3, previous = PlacedV2)]
struct Placed {
    id: i64,
    cents: i64,
    note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "id", version = 2, previous = PlacedV1)]
struct PlacedV2 {
    id: i64,
    cents: i64,
}

impl From<PlacedV1> for PlacedV2 {
    fn from(PlacedV1 { id, euros }: PlacedV1) -> Self {
        Self { id, cents: i64::from(euros) * 100 }
    }
}

impl From<PlacedV2> for Placed {
    fn from(PlacedV2 { id, cents }: PlacedV2) -> Self {
        Self { id, cents, note: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.cancelled", partition_key = "id")]
struct Cancelled {
    id: String,
}

#[derive(Debug, Clone, PartialEq, Event)]
enum Order {
    Placed(Placed),
    Cancelled(Cancelled),
}

fn placed() -> impl Strategy<Value = Placed> {
    (any::<i64>(), any::<i64>(), any::<Option<String>>()).prop_map(|(id, cents, note)| Placed { id, cents, note })
}

/// Fields of the right names with values of every kind, and others.
fn object() -> impl Strategy<Value = String> {
    let name = prop_oneof!["id|cents|euros|note", any::<String>()];
    let name = name.prop_map(|name| serde_json::to_string(&name).expect("a string"));
    let value = prop_oneof![
        any::<i128>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u8>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        any::<i16>().prop_map(|n| format!("\"{n}\"")),
        "null|-0|1\\.0|1e2|true",
        documents::document(),
    ];
    proptest::collection::vec((name, value), 0..5).prop_map(|fields| {
        let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

/// What a version's document says, read by hand; `None` where it is no document of that version.
fn by_hand(version: i16, payload: &[u8]) -> Option<Placed> {
    let document: Value = serde_json::from_slice(payload).ok()?;
    let number = |name: &str| document.get(name)?.as_i64();
    let (id, cents) = match version {
        1 => (number("id")?, number("euros").filter(|euros| (0..256).contains(euros))? * 100),
        _ => (number("id")?, number("cents")?),
    };
    let note = match document.get("note") {
        Some(Value::String(note)) if version == 3 => Some(note.clone()),
        None | Some(Value::Null) => None,
        Some(_) if version == 3 => return None,
        Some(_) => None,
    };
    Some(Placed { id, cents, note })
}

/// serde reads a struct from an array too, by position.
fn is_array(document: &[u8]) -> bool {
    document.trim_ascii_start().first() == Some(&b'[')
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn what_was_encoded_is_read_back(event in placed()) {
        let payload = event.encode().unwrap();
        prop_assert_eq!(&Placed::decode("orders.placed", 3, &payload).unwrap(), &event);
        let order = Order::Placed(event);
        prop_assert_eq!(order.encode().unwrap(), payload.clone());
        prop_assert_eq!(Order::decode("orders.placed", 3, &payload).unwrap(), order);
        // Broken off, or with something behind it.
        for end in 0..payload.len() {
            prop_assert!(Placed::decode("orders.placed", 3, &payload[..end]).is_err());
        }
        prop_assert!(Placed::decode("orders.placed", 3, &[&payload[..], b"0"].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_an_error(topic in any::<String>(), version in any::<i16>(), bytes in any::<Vec<u8>>()) {
        let _ = Order::decode(&topic, version, &bytes);
        prop_assume!(!is_array(&bytes));
        for topic in Order::TOPICS {
            // No short run of bytes holds two fields.
            let error = Order::decode(topic, version, &bytes[..bytes.len().min(8)]).unwrap_err();
            let known = if *topic == "orders.placed" { 1..=3 } else { 1..=1 };
            prop_assert_eq!(matches!(error, DecodeError::Version { .. }), !known.contains(&version), "{}", error);
        }
    }

    #[test]
    fn an_unknown_topic_is_an_error(topic in any::<String>(), version in any::<i16>(), document in documents::document()) {
        prop_assume!(!Order::TOPICS.contains(&topic.as_str()));
        let error = Order::decode(&topic, version, document.as_bytes()).unwrap_err();
        prop_assert!(matches!(error, DecodeError::Topic { .. }), "{}", error);
    }

    #[test]
    fn an_unknown_version_is_an_error_whatever_it_holds(version in any::<i16>(), event in placed()) {
        prop_assume!(!(1..=3).contains(&version));
        let error = Placed::decode("orders.placed", version, &event.encode().unwrap()).unwrap_err();
        let nearest = if version < 1 { 1 } else { 3 };
        prop_assert!(matches!(error, DecodeError::Version { stored, known, .. } if stored == version && known == nearest), "{}", error);
    }

    /// Another reader, of JSON's own values, comes to the same.
    #[test]
    fn a_document_is_read_as_it_says_or_refused(version in 1..=3_i16, document in prop_oneof![object(), documents::document()]) {
        prop_assume!(!is_array(document.as_bytes()));
        if let Ok(event) = Placed::decode("orders.placed", version, document.as_bytes()) {
            prop_assert_eq!(Some(event), by_hand(version, document.as_bytes()), "{}", document);
        }
    }
}
