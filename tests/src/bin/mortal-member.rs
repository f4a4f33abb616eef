//! One process of a consumer group that dies of its events: `mortal-member <database url> <group> <member> <mode>` writes what it handles
//! into `seen`. The second event of key `kills` aborts the process; every 300th handling says that the other side is down. Stops at SIGTERM.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Detached, Failure};
use event_box_tests::{Counted, Seen};
use sqlx::PgPool;

static HANDLED: AtomicU64 = AtomicU64::new(0);

fn live_or_die(event: &Counted) -> Result<(), Failure> {
    if event.key == "kills" && event.n == 2 {
        std::process::abort();
    }
    if HANDLED.fetch_add(1, Ordering::Relaxed) % 300 == 299 {
        return Err(Failure::Unavailable("for a moment".into()));
    }
    Ok(())
}

async fn note(event: Counted, cx: &mut Context<'_, String>) -> Result<(), Failure> {
    live_or_die(&event)?;
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

/// In no transaction: what it writes stays, whatever becomes of its process.
async fn note_by_itself(event: Counted, cx: &mut Detached<'_, (String, PgPool)>) -> Result<(), Failure> {
    live_or_die(&event)?;
    let (member, pool) = cx.state();
    sqlx::query("insert into seen (member, grp, key, n) values ($1, $2, $3, $4)")
        .bind(member)
        .bind(cx.group())
        .bind(&event.key)
        .bind(event.n)
        .execute(pool)
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group, member, mode, backoff] = &arguments[..] else {
        return Err("usage: mortal-member <database url> <group> <member> <mode> <back-off in seconds>".into());
    };
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(6).connect(url).await?;
    let backoff = Backoff::fixed(Duration::from_secs(backoff.parse()?));
    if mode == "concurrent" {
        let own = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(url).await?;
        let consumer = Consumer::builder(pool, group).state((member.clone(), own)).workers(2).concurrent(4);
        return Ok(consumer.on(note_by_itself).backoff(backoff).build()?.run_until_signal().await?);
    }
    let consumer = Consumer::builder(pool, group).state(member.clone()).workers(2).on(note).backoff(backoff);
    let consumer = if mode == "all_or_nothing" { consumer.all_or_nothing() } else { consumer };
    Ok(consumer.build()?.run_until_signal().await?)
}
