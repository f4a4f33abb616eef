use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

fn consume(pool: PgPool) {
    Consumer::builder(pool, "warehouse").on(|event: OrderPlaced, cx: &mut Context<'_>| async move {
        sqlx::query("select $1").bind(event.order_id).execute(cx).await?;
        Ok::<_, sqlx::Error>(())
    });
}

fn main() {}
