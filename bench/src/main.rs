//! `cargo xtask bench`: see this package's library and `bench/README.md`.

use clap::{Parser, Subcommand};
use event_box_bench::{
    arguments::{Child, Settings},
    children,
    machine::{Machine, commit, locked},
    results::{self, Section},
    stage::Bench,
    suites::{Measured, Suite},
};

/// Measures event-box beside raw SQL, on a PostgreSQL of its own.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the benchmark runs in processes of their own.
    #[command(hide = true)]
    Child {
        #[command(subcommand)]
        child: Child,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Child { child }) => children::run(child).await,
        None => measure(arguments.settings).await,
    }
}

async fn measure(settings: Settings) -> anyhow::Result<()> {
    let suites: Vec<_> = Suite::ALL.into_iter().filter(|suite| suite.name().contains(&settings.only)).collect();
    if suites.is_empty() {
        let names: Vec<_> = Suite::ALL.map(Suite::name).to_vec();
        anyhow::bail!("nothing is named `{}`: there are {}", settings.only, names.join(", "));
    }
    let machine = Machine::look();
    let bench = Bench::start(settings.repetitions, settings.scale, settings.full).await?;
    let mut measured = Measured::default();
    for suite in suites {
        let Measured { comparisons, figures } = suite.run(&bench).await?;
        comparisons.iter().for_each(|row| eprintln!("{}", results::line(row)));
        figures.iter().for_each(|row| eprintln!("{}", results::figure(row)));
        measured.comparisons.extend(comparisons);
        measured.figures.extend(figures);
    }
    if settings.json {
        println!("{}", measured.json()?);
        return Ok(());
    }
    println!("{}", results::table(&measured));
    if settings.whole() {
        let stage = bench.stage().await?;
        let lock = include_str!("../../Cargo.lock");
        let versions = [("event-box", commit()), ("sqlx", locked(lock, "sqlx"))];
        let kind = if settings.full { "full" } else { "short" };
        let mut about = machine.describe(&stage.pool, &versions).await?;
        about += &format!("- Run: {kind}, {} interleaved repetitions.\n", settings.repetitions);
        stage.close().await?;
        results::write(Section::Raw, &results::section("event-box beside PostgreSQL itself", &about, &measured)?)?;
    }
    Ok(())
}
