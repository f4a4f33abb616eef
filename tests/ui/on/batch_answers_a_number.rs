use event_box::{Consumer, Context, Delivery, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn index(orders: Vec<Delivery<OrderPlaced>>, _: &mut Context<'_>) -> Result<usize, sqlx::Error> {
    Ok(orders.len())
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "index").on_batch(index);
}

fn main() {}
