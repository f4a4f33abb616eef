use std::{borrow::Cow, error::Error, process::Command};

use event_box::{DecodeError, Event, PartitionKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
struct OrderPlaced {
    order_id: i64,
    lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: String,
    amount: u32,
}

impl OrderPlaced {
    fn sample() -> Self {
        Self { order_id: 7, lines: vec![Line { sku: "a\u{e9}\"".into(), amount: 2 }] }
    }
}

const SAMPLE: &str = "{\"order_id\":7,\"lines\":[{\"sku\":\"a\u{e9}\\\"\",\"amount\":2}]}";

fn key(event: &impl Event) -> Option<Cow<'_, str>> {
    event.partition_key()
}

#[test]
fn mistakes_are_named_where_they_are_made() {
    let rustc = Command::new("rustc").arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&rustc.stdout);
    if version.starts_with("rustc 1.95.") {
        let cases = trybuild::TestCases::new();
        for mistakes in ["ui/derive/*.rs", "ui/on/*.rs", "ui/emit/*.rs"] {
            cases.compile_fail(mistakes);
        }
    } else {
        println!("skipped: the expected messages are those of rustc 1.95, this is {version}");
    }
}

#[test]
fn a_struct_has_the_topic_it_names() {
    assert_eq!(OrderPlaced::TOPICS, ["orders.placed"]);
    assert_eq!(OrderPlaced::sample().topic(), "orders.placed");
    assert_eq!((OrderPlaced::VERSION, OrderPlaced::sample().version()), (1, 1));
}

#[test]
fn the_topic_defaults_to_the_name_in_snake_case() {
    #[derive(Serialize, Deserialize, Event)]
    struct HTTPRequestSent2;
    #[derive(Serialize, Deserialize, Event)]
    #[event()]
    struct ÄnderungGebucht {}
    #[derive(Serialize, Deserialize, Event)]
    #[allow(non_camel_case_types)]
    struct r#type;

    assert_eq!(HTTPRequestSent2::TOPICS, ["http_request_sent2"]);
    assert_eq!(HTTPRequestSent2.topic(), "http_request_sent2");
    assert_eq!(ÄnderungGebucht::TOPICS, ["änderung_gebucht"]);
    assert_eq!(r#type::TOPICS, ["type"]);
}

#[test]
fn a_topic_may_be_255_bytes_long() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(
        topic = "orders.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    )]
    struct Happened;

    assert_eq!(Happened::TOPICS[0].len(), 255);
}

#[test]
fn a_macro_may_pass_the_topic_on() {
    macro_rules! event_on {
        ($name:ident, $topic:expr, $key:literal) => {
            #[derive(Serialize, Deserialize, Event)]
            #[event(topic = $topic, partition_key = $key)]
            struct $name {
                id: i64,
            }
        };
    }
    event_on!(DayClosed, "days.closed", "id");

    assert_eq!(DayClosed::TOPICS, ["days.closed"]);
    assert_eq!(key(&DayClosed { id: 3 }).as_deref(), Some("3"));
}

#[test]
fn attributes_may_stand_in_several_lists() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(topic = "stock.changed")]
    #[event(partition_key = "sku")]
    struct StockChanged {
        sku: String,
    }

    assert_eq!(StockChanged::TOPICS, ["stock.changed"]);
    assert_eq!(key(&StockChanged { sku: "s-1".into() }).as_deref(), Some("s-1"));
}

#[test]
fn without_a_key_there_is_no_order() {
    #[derive(Serialize, Deserialize, Event)]
    struct DayClosed {
        day: u32,
    }

    assert_eq!(key(&DayClosed { day: 3 }), None);
}

#[test]
fn every_kind_of_field_can_be_the_key() {
    #[derive(Serialize, Deserialize)]
    struct CustomerId(i64);
    impl PartitionKey for CustomerId {
        fn partition_key(&self) -> Option<Cow<'_, str>> {
            Some(format!("customer-{}", self.0).into())
        }
    }
    macro_rules! key_of {
        ($type:ty, $value:expr) => {{
            #[derive(Serialize, Deserialize, Event)]
            #[event(partition_key = "key")]
            struct Happened {
                key: $type,
            }
            key(&Happened { key: $value }).map(Cow::into_owned)
        }};
    }

    assert_eq!(key_of!(String, "s-1".into()).as_deref(), Some("s-1"));
    assert_eq!(key_of!(Cow<'static, str>, "s-1".into()).as_deref(), Some("s-1"));
    assert_eq!(key_of!(i64, i64::MIN).as_deref(), Some("-9223372036854775808"));
    assert_eq!(key_of!(u8, 0).as_deref(), Some("0"));
    assert_eq!(key_of!(Option<i32>, Some(5)).as_deref(), Some("5"));
    assert_eq!(key_of!(Option<String>, None), None);
    assert_eq!(key_of!(CustomerId, CustomerId(4)).as_deref(), Some("customer-4"));
    assert_eq!(key_of!(Option<CustomerId>, Some(CustomerId(4))).as_deref(), Some("customer-4"));
}

#[test]
fn a_uuid_can_be_the_key() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(partition_key = "id")]
    struct Happened {
        #[serde(skip)]
        id: Uuid,
    }

    let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_00AB);
    assert_eq!(key(&Happened { id }).as_deref(), Some("01980000-0000-7000-8000-0000000000ab"));
}

#[test]
fn a_field_of_a_tuple_struct_is_named_by_its_position() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(partition_key = "1")]
    struct Moved(i64, String);

    assert_eq!(key(&Moved(1, "b".into())).as_deref(), Some("b"));
}

#[test]
fn a_field_within_a_field_can_be_the_key() {
    #[derive(Serialize, Deserialize)]
    struct Customer {
        r#type: (Option<String>, i64),
    }
    macro_rules! key_of {
        ($path:literal, $type:ty, $value:expr) => {{
            #[derive(Serialize, Deserialize, Event)]
            #[event(partition_key = $path)]
            struct Placed($type, i64);
            key(&Placed($value, 0)).map(Cow::into_owned)
        }};
    }
    let customer = |name: Option<&str>| Customer { r#type: (name.map(str::to_owned), 4) };

    assert_eq!(key_of!("0.type.1", Customer, customer(None)).as_deref(), Some("4"));
    assert_eq!(key_of!("0.r#type.0", Customer, customer(Some("a"))).as_deref(), Some("a"));
    assert_eq!(key_of!("0.type.0", Customer, customer(None)), None, "an `Option` at the end");
    assert_eq!(key_of!("0.type.1", Box<Customer>, customer(None).into()).as_deref(), Some("4"));
}

#[test]
fn a_raw_field_is_named_with_or_without_its_prefix() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(partition_key = "type")]
    struct Plain {
        r#type: String,
    }
    #[derive(Serialize, Deserialize, Event)]
    #[event(partition_key = "r#type")]
    struct Prefixed {
        r#type: String,
    }

    assert_eq!(key(&Plain { r#type: "a".into() }).as_deref(), Some("a"));
    assert_eq!(key(&Prefixed { r#type: "b".into() }).as_deref(), Some("b"));
}

#[test]
fn the_payload_is_the_json_of_serde_byte_for_byte() {
    #[derive(Serialize, Deserialize, Event)]
    #[serde(rename_all = "camelCase")]
    struct Renamed {
        z_last: f64,
        #[serde(rename = "A")]
        a_first: Option<u8>,
    }

    assert_eq!(OrderPlaced::sample().encode().unwrap(), SAMPLE.as_bytes());
    assert_eq!(Renamed { z_last: 1.0, a_first: None }.encode().unwrap(), br#"{"zLast":1.0,"A":null}"#);
}

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let event = OrderPlaced::sample();
    let read = OrderPlaced::decode(event.topic(), event.version(), &event.encode().unwrap()).unwrap();
    assert_eq!(read, event);
}

#[test]
fn a_value_without_a_json_form_is_refused() {
    #[derive(Serialize, Deserialize, Event)]
    struct Counted {
        counts: std::collections::BTreeMap<(u8, u8), u32>,
    }

    let event = Counted { counts: [((1, 2), 3)].into() };
    assert_eq!(event.encode().unwrap_err().to_string(), "key must be a string");
}

#[test]
fn a_payload_that_does_not_fit_is_reported_with_its_path() {
    let payload = br#"{"order_id":7,"lines":[{"sku":"a","amount":1},{"sku":"b","amount":-1}]}"#;
    let error = OrderPlaced::decode("orders.placed", 1, payload).unwrap_err();
    assert!(matches!(&error, DecodeError::Payload { path, .. } if path == "lines[1].amount"), "{error:?}");
    assert_eq!(error.to_string(), "the payload does not fit at `lines[1].amount`");
    assert!(error.source().unwrap().to_string().starts_with("invalid value: integer `-1`, expected u32"));

    let error = OrderPlaced::decode("orders.placed", 1, br#"{"order_id":7}"#).unwrap_err();
    assert!(matches!(&error, DecodeError::Payload { path, .. } if path == "."), "{error:?}");
    assert!(error.source().unwrap().to_string().starts_with("missing field `lines`"), "{error:?}");

    let error = OrderPlaced::decode("orders.placed", 1, b"{").unwrap_err();
    assert!(matches!(&error, DecodeError::Payload { path, .. } if path == "."), "{error:?}");
}

#[test]
fn a_version_that_is_not_known_is_refused_before_the_payload_is_read() {
    for stored in [0, 2] {
        let error = OrderPlaced::decode("orders.placed", stored, b"not json").unwrap_err();
        let DecodeError::Version { topic, stored: named, known } = error else { panic!("{error:?}") };
        assert_eq!((topic.as_str(), named, known), ("orders.placed", stored, 1));
    }
}

/// The expansion must not depend on what is in scope where it stands.
mod hostile {
    #![no_implicit_prelude]
    #![allow(dead_code, non_camel_case_types, non_upper_case_globals)]

    const topic: () = ();
    static version: () = ();
    struct payload;
    struct Option;
    struct Result;
    struct Vec;
    struct Cow;
    trait PartitionKey {}
    trait Send {}
    mod std {}
    mod core {}
    mod event_box {}

    #[derive(::serde::Serialize, ::serde::Deserialize, ::event_box::Event)]
    #[event(partition_key = "id")]
    pub(super) struct Happened {
        pub(super) id: u64,
    }

    #[derive(::serde::Serialize, ::serde::Deserialize, ::event_box::Event)]
    #[event(topic = "happened", partition_key = "inner.0", version = 2, previous = Happened)]
    pub(super) struct HappenedV2 {
        pub(super) inner: (u64,),
    }
    impl ::std::convert::From<Happened> for HappenedV2 {
        fn from(Happened { id }: Happened) -> Self {
            Self { inner: (id,) }
        }
    }

    #[derive(::serde::Serialize, ::serde::Deserialize, ::event_box::Event)]
    pub(super) struct Other;

    #[derive(::event_box::Event)]
    pub(super) enum Any {
        Happened(HappenedV2),
        Other(Other),
    }
}

#[test]
fn names_in_scope_do_not_reach_into_the_expansion() {
    let event = hostile::Happened { id: 9 };
    assert_eq!((key(&event).as_deref(), event.topic()), (Some("9"), "happened"));
    assert_eq!(hostile::Happened::decode("happened", 1, &event.encode().unwrap()).unwrap().id, 9);
    let read = hostile::Any::decode("happened", 1, &event.encode().unwrap()).unwrap();
    assert!(matches!(read, hostile::Any::Happened(hostile::HappenedV2 { inner: (9,) })));
    assert!(matches!(hostile::Any::decode("other", 1, b"null").unwrap(), hostile::Any::Other(hostile::Other)));
}
