use event_box::Context;

use crate::{events::OrderPlaced, stopwatch::Stopwatch};

/// The warehouse: what it writes commits together with the group's cursor, so that each order is reserved once.
pub(crate) async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_, Stopwatch>) -> Result<(), sqlx::Error> {
    cx.state().handled(event.order_id);
    sqlx::query("insert into reservations (order_id, sku, quantity) values ($1, $2, $3)")
        .bind(event.order_id)
        .bind(event.sku)
        .bind(event.quantity)
        .execute(cx)
        .await?;
    Ok(())
}

/// A projection: the revenue of each product, kept as orders come in.
pub(crate) async fn book_revenue(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into revenue (sku, orders, cents) values ($1, 1, $2) \
         on conflict (sku) do update set orders = revenue.orders + 1, cents = revenue.cents + excluded.cents",
    )
    .bind(event.sku)
    .bind(event.total_cents)
    .execute(cx)
    .await?;
    Ok(())
}
