use event_box::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What every step is told: it needs to ask nobody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) sku: String,
    pub(crate) quantity: i32,
    pub(crate) customer: String,
    pub(crate) cents: i64,
    pub(crate) address: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order.id")]
pub(crate) struct OrderPlaced {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "stock.reserved", partition_key = "order.id")]
pub(crate) struct StockReserved {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "stock.refused", partition_key = "order.id")]
pub(crate) struct StockRefused {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "stock.released", partition_key = "order.id")]
pub(crate) struct StockReleased {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "payments.charged", partition_key = "order.id")]
pub(crate) struct Charged {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "payments.declined", partition_key = "order.id")]
pub(crate) struct Declined {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "payments.refunded", partition_key = "order.id")]
pub(crate) struct Refunded {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "shipping.shipped", partition_key = "order.id")]
pub(crate) struct Shipped {
    pub(crate) order: Order,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "shipping.refused", partition_key = "order.id")]
pub(crate) struct ShippingRefused {
    pub(crate) order: Order,
}

/// The order was not paid, or is no longer: what was reserved for it is free again.
#[derive(Debug, Event)]
pub(crate) enum Unpaid {
    Declined(Declined),
    Refunded(Refunded),
}

/// Nothing is left to undo.
#[derive(Debug, Event)]
pub(crate) enum Undone {
    Refused(StockRefused),
    Released(StockReleased),
}
