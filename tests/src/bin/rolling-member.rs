//! One process of a service in one of two versions: `rolling-member <database url> <group> <member> <old|new>` writes what it handles into
//! `seen`. The old version knows `Counted` alone, the new one `Tallied` as well. Stops at SIGTERM.

use event_box::{BoxError, Consumer, Context};
use event_box_tests::{Counted, Seen, Tallied};

const WORKERS: usize = 2;

async fn counted(event: Counted, cx: &mut Context<'_, String>) -> Result<(), BoxError> {
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

async fn tallied(event: Tallied, cx: &mut Context<'_, String>) -> Result<(), BoxError> {
    let Tallied { key, n } = event;
    Ok(Seen::note(cx.state(), &Counted { key, n }, cx).await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group, member, version] = &arguments[..] else {
        return Err("usage: rolling-member <database url> <group> <member> <old|new>".into());
    };
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(WORKERS as u32 + 3).connect(url).await?;
    let old = Consumer::builder(pool, group).state(member.clone()).workers(WORKERS).on(counted);
    let consumer = if version == "old" { old.build()? } else { old.on(tallied).build()? };
    Ok(consumer.run_until_signal().await?)
}
