use std::rc::Rc;

use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
    let sum = Rc::new(event.order_id);
    sqlx::query("select 1").execute(cx).await?;
    drop(sum);
    Ok(())
}

fn consume(pool: PgPool) {
    Consumer::builder(pool, "warehouse").on(reserve_stock);
}

fn main() {}
