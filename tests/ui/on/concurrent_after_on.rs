use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn confirm(_: OrderPlaced, _: &mut Context<'_>) -> Result<(), sqlx::Error> {
    Ok(())
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "mail").on(confirm).concurrent(8);
}

fn main() {}
