use event_box::{Consumer, Context, Event, Failed};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn index(_: OrderPlaced, _: &mut Context<'_>) -> Result<Vec<Failed>, sqlx::Error> {
    Ok(Vec::new())
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "index").on(index);
}

fn main() {}
