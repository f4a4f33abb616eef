//! One process of a consumer group: `group-member <database url> <group> <member> <workers>` writes what it handles into `seen`, and into
//! `balances`, where there is one, what `bank.transferred` says. Migrates first, as services do. Stops at SIGTERM. Prints what event-box warns of.

use event_box::{BoxError, Consumer, Context, Event};
use event_box_tests::{Counted, Seen};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt};

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "bank.transferred", partition_key = "aid")]
struct Transferred {
    aid: i64,
    delta: i64,
}

async fn note(event: Counted, cx: &mut Context<'_, String>) -> Result<(), BoxError> {
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

async fn add_up(event: Transferred, cx: &mut Context<'_, String>) -> Result<(), BoxError> {
    sqlx::query("insert into balances values ($1, $2) on conflict (aid) do update set balance = balances.balance + $2")
        .bind(event.aid)
        .bind(event.delta)
        .execute(cx)
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group, member, workers] = &arguments[..] else {
        return Err("usage: group-member <database url> <group> <member> <workers>".into());
    };
    fmt().with_env_filter(EnvFilter::new("event_box=warn")).with_writer(std::io::stderr).init();
    let workers = workers.parse()?;
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(workers as u32 + 3).connect(url).await?;
    event_box::migrate(&pool).await?;
    let consumer = Consumer::builder(pool, group).state(member.clone()).workers(workers).on(note).on(add_up).build()?;
    Ok(consumer.run_until_signal().await?)
}
