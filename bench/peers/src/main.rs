//! `cargo xtask bench --peers`: event-box and other crates for the same work, beside the same raw SQL in the same repetitions, each on a
//! fresh database of one server with default durability. What each peer was given to do its best stands in its own file.

mod graphile;
mod obix;
mod peer;
mod pgmq;
mod sink;
mod suites;

use std::sync::Arc;

use clap::{Parser, Subcommand};
use event_box_bench::{
    arguments::{Child, Settings},
    children,
    latency::{Arrivals, Moments, emit_all, report},
    machine::{Machine, commit, locked},
    results::{self, Section},
    stage::Bench,
    suites::Measured,
};

use crate::{peer::Peer, sink::Sink};

/// Measures event-box and its peers beside raw SQL, on a PostgreSQL of its own.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The benchmark's own children.
    #[command(hide = true)]
    Child {
        #[command(subcommand)]
        child: Child,
    },
    /// The same of a peer.
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        child: PeerChild,
    },
}

#[derive(Debug, Subcommand)]
enum PeerChild {
    Consume {
        #[arg(long)]
        url: String,
        #[arg(long)]
        side: Peer,
        #[arg(long)]
        events: usize,
    },
    Emit {
        #[arg(long)]
        url: String,
        #[arg(long)]
        side: Peer,
        #[arg(long)]
        events: usize,
        #[arg(long)]
        arrivals: Arrivals,
    },
}

const SUITES: [&str; 4] = ["emit one a transaction", "emit_all", "drain", "latency"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Child { child }) => children::run(child).await,
        Some(Command::Peer { child }) => run(child).await,
        None => compare(arguments.settings).await,
    }
}

async fn run(child: PeerChild) -> anyhow::Result<()> {
    match child {
        PeerChild::Consume { url, side, events } => {
            let moments = Arc::new(Moments::new(events));
            let noted = moments.clone();
            let peer = side.open(&url).await?;
            let consuming = peer.consume(Sink::new(move |order| noted.note(order)), true).await?;
            report(&moments).await?;
            consuming.stop().await
        }
        PeerChild::Emit { url, side, events, arrivals } => {
            let peer = side.open(&url).await?;
            emit_all(arrivals, events, async |order| peer.emit(&[order]).await).await
        }
    }
}

async fn compare(settings: Settings) -> anyhow::Result<()> {
    anyhow::ensure!(
        SUITES.iter().any(|name| name.contains(&settings.only)),
        "nothing is named `{}`: there are {}",
        settings.only,
        SUITES.join(", ")
    );
    let machine = Machine::look();
    let bench = Bench::start(settings.repetitions, settings.scale, settings.full).await?;
    let mut measured = Measured::default();
    for name in SUITES.into_iter().filter(|name| name.contains(&settings.only)) {
        let rows = match name {
            "emit one a transaction" => suites::emit_one(&bench).await?,
            "emit_all" => suites::emit_all(&bench).await?,
            "drain" => suites::drain(&bench).await?,
            _ => suites::latency(&bench).await?,
        };
        rows.iter().for_each(|row| eprintln!("{}", results::line(row)));
        measured.comparisons.extend(rows);
    }
    if settings.json {
        println!("{}", measured.json()?);
        return Ok(());
    }
    println!("{}", results::table(&measured));
    if settings.whole() {
        let stage = bench.stage().await?;
        let lock = include_str!("../Cargo.lock");
        let mut versions = vec![("event-box", commit()), ("sqlx", locked(lock, "sqlx"))];
        versions.extend(Peer::ALL.map(|peer| (peer.name(), locked(lock, peer.name()))));
        let mut about = machine.describe(&stage.pool, &versions).await?;
        let kind = if settings.full { "full" } else { "short" };
        about += &format!("- Run: {kind}, {} interleaved repetitions.\n{SETTINGS}", settings.repetitions);
        stage.close().await?;
        results::write(Section::Peers, &results::section("event-box beside its peers", &about, &measured)?)?;
    }
    Ok(())
}

/// What each was given, for the results.
const SETTINGS: &str = "\
- event-box: defaults; one worker for the drain, two while emitting.
- obix: a singleton subscriber in insert order that collects, batches of up to 1,000 instead of 100, all else by default. It uses sqlx 0.8.
- pgmq: its SQL objects of version 1.13.0, installed by the crate instead of the extension; a logged queue; batches of 1,000 read and deleted in \
one transaction by one reader, which polls every 100 ms and is notified of inserts: at most once in 250 ms (its default), for latency without that limit, \
which would serialise commits.
- graphile_worker: local queue of 100, completions flushed after 5 ms, concurrency 4, poll every 10 ms beside NOTIFY, no queue names (no order).
- What they do is not the same: event-box keeps order per key with several workers and gives each of several groups every event; obix \
keeps the order of the whole log with one subscriber; pgmq and graphile_worker hand each message to one consumer and delete it.
";
