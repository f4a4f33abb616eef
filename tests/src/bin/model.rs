//! The model check of the whole engine (`event_box_tests::model`): `model run --seconds 30` for one history, `model soak --minutes 60` for
//! one after the other with faults on top. `cargo xtask soak` and `cargo xtask mutations` run it.

use std::{
    panic,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use event_box_tests::model::{self, Options};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One history.
    Run {
        /// How long emitters are at work.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Of all that is drawn.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Histories of half a minute with faults on top, until the time is up.
    Soak {
        #[arg(long)]
        minutes: u64,
        /// Of the first; each has the next number.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The engine's deliberate defects, each with what it is; `EVENT_BOX_MUTATION` names one for a run.
    #[cfg(feature = "mutations")]
    Mutations,
    /// A process of a group, started by the others.
    #[command(hide = true)]
    Member { url: String, group: String, seed: u64 },
}

#[tokio::main]
async fn main() -> ExitCode {
    // Handlers that panic are part of the game.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("whim") {
            hook(info);
        }
    }));
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Run { seconds, seed } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..));
            println!("seed {seed}");
            println!("{}", model::run(Options { seed, time: Duration::from_secs(seconds), faults: false }).await?);
        }
        Command::Soak { minutes, seed } => soak(Duration::from_secs(minutes * 60), seed).await?,
        #[cfg(feature = "mutations")]
        Command::Mutations => {
            for (name, what) in event_box::__private::MUTATIONS {
                println!("{name}\t{what}");
            }
        }
        Command::Member { url, group, seed } => model::member(&url, &group, seed).await?,
    }
    Ok(())
}

async fn soak(time: Duration, seed: Option<u64>) -> Result<()> {
    let began = Instant::now();
    let mut seed = seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let (mut histories, mut all) = (0, model::Summary::default());
    while began.elapsed() < time {
        let summary = model::run(Options { seed, time: Duration::from_secs(30), faults: true }).await?;
        println!("seed {seed}: {summary}");
        (histories, seed) = (histories + 1, seed + 1);
        all += summary;
    }
    println!("{histories} histories in {} minutes: {all}", began.elapsed().as_secs() / 60);
    Ok(())
}
