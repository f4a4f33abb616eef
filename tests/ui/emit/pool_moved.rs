use event_box::{Event, Outbox};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

async fn place(pool: PgPool, event: OrderPlaced) -> Result<(), Box<dyn std::error::Error>> {
    Outbox::new().emit(pool, &event).await?;
    Ok(())
}

fn main() {}
