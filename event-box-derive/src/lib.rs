//! The derive macro of event-box: use it through
//! [`event_box::Event`](https://docs.rs/event-box/latest/event_box/trait.Event.html), which documents it with an example.

mod expand;
mod fallback;
mod implementation;
mod key;
mod misplaced;
mod parse;
mod previous;
mod suggest;
mod validate;
mod value;
mod variants;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use crate::validate::Event;

/// Implements `event_box::Event` for a struct that also derives `serde::Serialize` and `serde::Deserialize`, or for an
/// enum of such structs.
///
/// `#[event(..)]` on a struct takes:
///
/// # `topic`
///
/// What the event is stored under and handlers are found by, 1 to 255 bytes; as a string literal. Default: the struct's
/// name in snake case.
///
/// ```
/// # use event_box::Event;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "days.closed")]
/// struct DayClosed {
///     day: u32,
/// }
///
/// #[derive(Serialize, Deserialize, Event)]
/// struct NightBegun;
///
/// assert_eq!(DayClosed::TOPICS, ["days.closed"]);
/// assert_eq!(NightBegun::TOPICS, ["night_begun"]);
/// ```
///
/// A topic stands for one kind of payload, so an event has no type parameters; wrap the concrete type:
/// `struct PriceChanged(Changed<Price>);`. It has no lifetime parameters either, as a handler's copy comes from the log.
///
/// # `partition_key`
///
/// The field whose value orders the event among others: a string, an integer, a `Uuid`, an `Option` of these, where
/// `None` means no order, or a type of your own that implements `event_box::PartitionKey`. Dots lead to fields of
/// fields, and numbers to those of tuples. The names are Rust's, whatever serde calls them. Default: no key, so no order.
///
/// ```
/// # use event_box::Event;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(partition_key = "customer.id")]
/// struct OrderPlaced {
///     customer: Customer,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Customer {
///     id: i64,
/// }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(partition_key = "0")]
/// struct CustomerLeft(i64);
///
/// let (placed, left) = (OrderPlaced { customer: Customer { id: 7 } }, CustomerLeft(7));
/// assert_eq!(placed.partition_key().as_deref(), Some("7"));
/// assert_eq!(placed.partition_key(), left.partition_key());
/// ```
///
/// A path does not lead through an `Option`: where there may be no customer, name `customer` and implement
/// `event_box::PartitionKey` for `Customer`.
///
/// # `version` and `previous`
///
/// Give an event whose JSON changes the next number, 2 or more (the most is 32767), and name the type of the version
/// before, of the same topic. What was stored in that version is read by that type and converted by `From`, and so on
/// down the chain; handlers see the newest type only. Default: version 1.
///
/// ```
/// # use event_box::Event;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "orders.placed")]
/// struct OrderPlacedV1 {
///     euros: i64,
/// }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "orders.placed", version = 2, previous = OrderPlacedV1)]
/// struct OrderPlaced {
///     cents: i64,
/// }
///
/// impl From<OrderPlacedV1> for OrderPlaced {
///     fn from(OrderPlacedV1 { euros }: OrderPlacedV1) -> Self {
///         Self { cents: euros * 100 }
///     }
/// }
///
/// assert_eq!(OrderPlaced::decode("orders.placed", 1, br#"{"euros": 3}"#).unwrap().cents, 300);
/// assert_eq!(OrderPlaced::decode("orders.placed", 2, br#"{"cents": 350}"#).unwrap().cents, 350);
/// ```
///
/// That topics are the same and that no version is left out is checked where it is compiled. The last of the chain needs no `previous`,
/// whatever its number: once nothing older is in the log, the older types can go. An event older than that, or newer than this code,
/// is not guessed at: it fails with `DecodeError::Version`, waits for a retry as any failure does, and its neighbours go on. A field that
/// serde fills in by itself (`#[serde(default)]`) needs no new version.
///
/// # Enums
///
/// An enum of events, each variant around one, takes no `#[event(..)]` and needs nothing of serde: topic, key, version and payload are
/// those of the event it holds. It can be emitted like that event, and a handler that takes it is given the events of all its variants, in order
/// of their keys. Variants may hold enums of events, and a `Box` of an event.
///
/// ```
/// # use event_box::{Consumer, ConsumerBuilder, Context, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(topic = "orders.placed", partition_key = "order_id")]
/// # struct OrderPlaced { order_id: i64 }
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(topic = "orders.cancelled", partition_key = "order_id")]
/// # struct OrderCancelled { order_id: i64 }
/// #[derive(Event)]
/// enum OrderEvent {
///     Placed(OrderPlaced),
///     Cancelled(OrderCancelled),
/// }
///
/// async fn count(event: OrderEvent, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
///     let (order_id, change) = match event {
///         OrderEvent::Placed(OrderPlaced { order_id }) => (order_id, 1),
///         OrderEvent::Cancelled(OrderCancelled { order_id }) => (order_id, -1),
///     };
///     sqlx::query("update orders set open = open + $2 where id = $1").bind(order_id).bind(change).execute(cx).await?;
///     Ok(())
/// }
///
/// # fn build(pool: sqlx::PgPool) -> Result<Consumer, event_box::BuildError> {
/// Consumer::builder(pool, "orders").on(count).build()
/// # }
/// # assert_eq!(OrderEvent::TOPICS, ["orders.placed", "orders.cancelled"]);
/// ```
///
/// An event is told apart by its topic, so each belongs to one variant: two with a topic in common do not compile.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    match validate::event(&input) {
        Ok(Event::Struct(event)) => expand::event_struct(&event).into(),
        Ok(Event::Enum(event)) => expand::event_enum(&event).into(),
        Err(errors) => fallback::event(&input, &errors).into(),
    }
}
