//! One process of a consumer group that dies of its events: `mortal-member <database url> <group> <member> <mode>` writes what it handles
//! into `seen`. The second event of key `kills` aborts the process; every 300th handling says that the other side is down. Stops at SIGTERM.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Failure};
use event_box_tests::{Counted, Seen};

static HANDLED: AtomicU64 = AtomicU64::new(0);

async fn note(event: Counted, cx: &mut Context<'_, String>) -> Result<(), Failure> {
    if event.key == "kills" && event.n == 2 {
        std::process::abort();
    }
    if HANDLED.fetch_add(1, Ordering::Relaxed) % 300 == 299 {
        return Err(Failure::Unavailable("for a moment".into()));
    }
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group, member, mode] = &arguments[..] else {
        return Err("usage: mortal-member <database url> <group> <member> <mode>".into());
    };
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(6).connect(url).await?;
    let consumer = Consumer::builder(pool, group)
        .state(member.clone())
        .workers(2)
        .on(note)
        .backoff(Backoff::fixed(Duration::from_secs(3)));
    let consumer = if mode == "all_or_nothing" { consumer.all_or_nothing() } else { consumer };
    Ok(consumer.build()?.run_until_signal().await?)
}
