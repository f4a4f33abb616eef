use event_box::{Consumer, Detached, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn confirm(_: OrderPlaced, _: &mut Detached<'_>) -> Result<(), sqlx::Error> {
    Ok(())
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "mail").concurrent(8).on(confirm).all_or_nothing();
}

fn main() {}
