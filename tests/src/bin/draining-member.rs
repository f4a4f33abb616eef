//! One process of a consumer group whose memory is measured: `draining-member <database url> <group>` keeps the book of [`Drained`].
//! Stops at SIGTERM.

use event_box::{BoxError, Consumer, Context, Delivery};
use event_box_tests::{Bulky, Counted, Drained};

async fn counted(run: Vec<Delivery<Counted>>, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Drained::note(run.iter().map(|delivery| (delivery.event.key.as_str(), delivery.event.n)), cx).await
}

async fn bulky(run: Vec<Delivery<Bulky>>, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Drained::note(run.iter().map(|delivery| (delivery.event.key.as_str(), delivery.event.n)), cx).await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group] = &arguments[..] else { return Err("usage: draining-member <database url> <group>".into()) };
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(7).connect(url).await?;
    let consumer = Consumer::builder(pool, group).on_batch(counted).on_batch(bulky).max_attempts(1).build()?;
    Ok(consumer.run_until_signal().await?)
}
