use event_box::{Consumer, Detached, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn confirm(_: OrderPlaced, cx: &mut Detached<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("select 1").execute(&mut *cx).await?;
    Ok(())
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "mail").concurrent(8).on(confirm);
}

fn main() {}
