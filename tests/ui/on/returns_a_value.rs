use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn reserve_stock(event: OrderPlaced, _: &mut Context<'_>) -> Result<i64, sqlx::Error> {
    Ok(event.order_id)
}

fn consume(pool: PgPool) {
    Consumer::builder(pool, "warehouse").on(reserve_stock);
}

fn main() {}
