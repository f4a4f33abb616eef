use event_box::{BoxError, Context, Outbox};
use recipes::Gremlin;

use crate::events::{
    Charged, Declined, OrderPlaced, Refunded, Shipped, ShippingRefused, StockRefused, StockReleased, StockReserved,
    Undone, Unpaid,
};

type Cx<'c> = Context<'c, Gremlin>;

/// First step, in the warehouse.
pub(crate) async fn reserve(OrderPlaced { order }: OrderPlaced, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    let taken = sqlx::query("update stock set available = available - $2 where sku = $1 and available >= $2")
        .bind(&order.sku)
        .bind(order.quantity)
        .execute(&mut *cx)
        .await?;
    if taken.rows_affected() == 0 {
        Outbox::new().emit(&mut *cx, &StockRefused { order }).await?;
        return Ok(());
    }
    sqlx::query("insert into reservations (order_id, sku, quantity) values ($1, $2, $3)")
        .bind(order.id)
        .bind(&order.sku)
        .bind(order.quantity)
        .execute(&mut *cx)
        .await?;
    Outbox::new().emit(&mut *cx, &StockReserved { order }).await?;
    // All of the above is undone with it, the event too.
    cx.state().strike()
}

/// Undoes the first step: by what the step itself wrote down, not by what the order says.
pub(crate) async fn release(event: Unpaid, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    let (Unpaid::Declined(Declined { order }) | Unpaid::Refunded(Refunded { order })) = event;
    let (sku, quantity): (String, i32) =
        sqlx::query_as("delete from reservations where order_id = $1 returning sku, quantity")
            .bind(order.id)
            .fetch_one(&mut *cx)
            .await?;
    sqlx::query("update stock set available = available + $2 where sku = $1")
        .bind(sku)
        .bind(quantity)
        .execute(&mut *cx)
        .await?;
    Outbox::new().emit(&mut *cx, &StockReleased { order }).await?;
    cx.state().strike()
}

/// Second step, at the till.
pub(crate) async fn charge(StockReserved { order }: StockReserved, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    let taken = sqlx::query("update wallets set cents = cents - $2 where customer = $1 and cents >= $2")
        .bind(&order.customer)
        .bind(order.cents)
        .execute(&mut *cx)
        .await?;
    if taken.rows_affected() == 0 {
        Outbox::new().emit(&mut *cx, &Declined { order }).await?;
        return Ok(());
    }
    sqlx::query("insert into charges (order_id, customer, cents) values ($1, $2, $3)")
        .bind(order.id)
        .bind(&order.customer)
        .bind(order.cents)
        .execute(&mut *cx)
        .await?;
    Outbox::new().emit(&mut *cx, &Charged { order }).await?;
    cx.state().strike()
}

/// Undoes the second step.
pub(crate) async fn refund(ShippingRefused { order }: ShippingRefused, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    let (customer, cents): (String, i64) =
        sqlx::query_as("delete from charges where order_id = $1 returning customer, cents")
            .bind(order.id)
            .fetch_one(&mut *cx)
            .await?;
    sqlx::query("update wallets set cents = cents + $2 where customer = $1")
        .bind(customer)
        .bind(cents)
        .execute(&mut *cx)
        .await?;
    Outbox::new().emit(&mut *cx, &Refunded { order }).await?;
    cx.state().strike()
}

/// Third step, and the last that can be refused: nothing ever undoes a parcel that is gone.
pub(crate) async fn ship(Charged { order }: Charged, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    if order.address == "the moon" {
        Outbox::new().emit(&mut *cx, &ShippingRefused { order }).await?;
        return Ok(());
    }
    sqlx::query("insert into parcels (order_id, address) values ($1, $2)")
        .bind(order.id)
        .bind(&order.address)
        .execute(&mut *cx)
        .await?;
    Outbox::new().emit(&mut *cx, &Shipped { order }).await?;
    cx.state().strike()
}

pub(crate) async fn complete(Shipped { order }: Shipped, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    sqlx::query("update orders set status = 'completed' where id = $1").bind(order.id).execute(&mut *cx).await?;
    cx.state().strike()
}

pub(crate) async fn cancel(event: Undone, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    let (Undone::Refused(StockRefused { order }) | Undone::Released(StockReleased { order })) = event;
    sqlx::query("update orders set status = 'cancelled' where id = $1").bind(order.id).execute(&mut *cx).await?;
    cx.state().strike()
}
