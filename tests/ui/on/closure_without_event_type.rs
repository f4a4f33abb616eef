use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

fn consume(pool: PgPool) {
    Consumer::builder(pool, "warehouse").on(async |event, _: &mut Context<'_>| Ok::<_, sqlx::Error>(()));
}

fn main() {}
