//! One process of a consumer group that is to be interrupted: `crash-member <database url> <group> <member> <mode>` writes what it handles
//! into `seen`; every fifth event of a key fails once. With `<point> <action>` behind that, it says `reached` when it first comes to that
//! point, and does there what is asked: `Fail` as if the connection were lost, `Stall` until a line comes in, `Panic`, or `Abort`. Stops at
//! SIGTERM.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use event_box::{
    Backoff, BoxError, Consumer, Context, Delivery, Detached, Failed, Failure, Pull, PullBuilder,
    failpoints::{self, Point},
};
use event_box_tests::{Counted, Seen};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const BACKOFF: Duration = Duration::from_millis(50);

struct Member {
    name: String,
    /// Where handlers that have no transaction write.
    pool: PgPool,
}

type State = &'static Member;

fn fails(event: &Counted, attempt: u32) -> bool {
    event.n % 5 == 3 && attempt == 1
}

async fn think() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..3))).await;
}

async fn note(event: Counted, cx: &mut Context<'_, State>) -> Result<(), BoxError> {
    Seen::note(&cx.state().name, &event, cx).await?;
    think().await;
    if fails(&event, cx.attempt()) { Err("once".into()) } else { Ok(()) }
}

async fn note_run(events: Vec<Delivery<Counted>>, cx: &mut Context<'_, State>) -> Result<Vec<Failed>, Failure> {
    let mut failed = Vec::new();
    for delivery in events {
        if fails(&delivery.event, cx.attempt()) {
            failed.push(delivery.failed("once"));
        } else {
            Seen::note(&cx.state().name, &delivery.event, cx).await?;
        }
    }
    think().await;
    Ok(failed)
}

async fn note_by_itself(event: Counted, cx: &mut Detached<'_, State>) -> Result<(), BoxError> {
    think().await;
    if event.key == "slow" && cx.group().ends_with("RoundKeptAlive") {
        // Until the claim has said that it lives.
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    if fails(&event, cx.attempt()) {
        return Err("once".into());
    }
    sqlx::query("insert into seen (member, grp, key, n) values ($1, $2, $3, $4)")
        .bind(&cx.state().name)
        .bind(cx.group())
        .bind(&event.key)
        .bind(event.n)
        .execute(&cx.state().pool)
        .await?;
    Ok(())
}

/// A batch, in a transaction of its own; whether there was any.
async fn pull_one(pull: &Pull, group: &str, member: &Member) -> Result<bool, BoxError> {
    let mut tx = member.pool.begin().await?;
    let mut batch = pull.batch(&mut tx, 7).await?;
    let any = !batch.is_empty();
    while let Some(event) = batch.next() {
        let counted: Counted = event.decode()?;
        if fails(&counted, event.attempt()) {
            batch.fail(&mut tx, event, "once").await?;
            continue;
        }
        sqlx::query("insert into seen (member, grp, key, n) values ($1, $2, $3, $4)")
            .bind(&member.name)
            .bind(group)
            .bind(&counted.key)
            .bind(counted.n)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(any)
}

/// As any loop around a pull: what fails is tried again.
async fn pull(pool: &PgPool, group: &str, member: State) -> Result<(), BoxError> {
    let mut asked_to_stop = signal(SignalKind::terminate())?;
    let pull = PullBuilder::new(pool, group).event::<Counted>().backoff(Backoff::fixed(BACKOFF)).open().await?;
    let pulling = async {
        loop {
            match pull_one(&pull, group, member).await {
                Ok(true) => {}
                Ok(false) => drop(pull.wait().await),
                Err(error) => {
                    eprintln!("{group}: {error}");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    };
    tokio::select! {
        () = pulling => {}
        _ = asked_to_stop.recv() => {}
    }
    Ok(())
}

fn interrupt(point: &str, action: String) -> Result<(), BoxError> {
    let here = *Point::ALL.iter().find(|any| format!("{any:?}") == point).ok_or("no such point")?;
    // In the middle of a batch rather than at its beginning.
    let at = if matches!(here, Point::Handling | Point::HandlingEnded | Point::ChainHandling) { 3 } else { 1 };
    let (reached, released) = (AtomicU32::new(0), CancellationToken::new());
    let release = released.clone();
    // A thread of its own, which keeps no runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        release.cancel();
    });
    failpoints::install(Box::new(move |point| {
        let now = point == here && reached.fetch_add(1, Ordering::Relaxed) + 1 == at;
        let (action, released) = (now.then(|| action.clone()), released.clone());
        Box::pin(async move {
            let Some(action) = action else { return Ok(()) };
            println!("reached");
            match &*action {
                "Fail" => return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())),
                "Stall" => released.cancelled().await,
                "Panic" => panic!("as asked"),
                _ => std::process::abort(),
            }
            Ok(())
        })
    }));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, group, name, mode) = match &arguments[..] {
        [url, group, name, mode] => (url, group, name, mode),
        [url, group, name, mode, point, action] => {
            interrupt(point, action.clone())?;
            (url, group, name, mode)
        }
        _ => return Err("usage: crash-member <database url> <group> <member> <mode> [<point> <action>]".into()),
    };
    let options = PgConnectOptions::from_str(url)?.application_name(group);
    let pool = PgPoolOptions::new().max_connections(6).connect_with(options.clone()).await?;
    let own = PgPoolOptions::new().max_connections(3).connect_with(options.application_name("by itself")).await?;
    let member: State =
        Box::leak(Box::new(Member { name: name.clone(), pool: if mode == "Pull" { pool.clone() } else { own } }));
    let builder = Consumer::builder(&pool, group).state(member);
    macro_rules! run {
        ($builder:expr) => {
            $builder.workers(2).backoff(Backoff::fixed(BACKOFF)).retention(None).build()?.run_until_signal().await?
        };
    }
    match &**mode {
        "AllOrNothing" => run!(builder.on(note).all_or_nothing()),
        "Batch" => run!(builder.on_batch(note_run)),
        "Concurrent" => run!(builder.concurrent(4).on(note_by_itself)),
        "Pull" => pull(&pool, group, member).await?,
        _ => run!(builder.on(note)),
    }
    Ok(())
}
