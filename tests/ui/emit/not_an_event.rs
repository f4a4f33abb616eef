use event_box::Outbox;
use sqlx::PgPool;

#[derive(serde::Serialize, serde::Deserialize)]
struct OrderPlaced {
    order_id: i64,
}

async fn place(pool: PgPool, event: OrderPlaced) -> Result<(), Box<dyn std::error::Error>> {
    Outbox::new().emit(&pool, &event).await?;
    Ok(())
}

fn main() {}
