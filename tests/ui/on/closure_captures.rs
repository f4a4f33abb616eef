use std::sync::Arc;

use event_box::{Consumer, Context, Event};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

fn consume(pool: PgPool) {
    let sent = Arc::new(Vec::<i64>::new());
    Consumer::builder(pool, "warehouse").on(async move |event: OrderPlaced, _: &mut Context<'_>| -> Result<(), sqlx::Error> {
        println!("{} {sent:?}", event.order_id);
        Ok(())
    });
}

fn main() {}
