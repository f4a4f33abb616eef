//! event-box beside what PostgreSQL itself can do through the same client, as ratios of rates from interleaved repetitions.
//!
//! `cargo xtask bench` runs it in release mode against a PostgreSQL of its own with default durability.

mod concurrent;
mod drain;
mod emit;
mod measure;
mod stage;

use clap::Parser;

use crate::{
    measure::{Comparison, table},
    stage::Stage,
};

/// Measures event-box beside raw SQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// Interleaved repetitions of each comparison.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// How much work a repetition does, in per cent of the usual.
    #[arg(long, default_value_t = 100)]
    scale: usize,
    /// Only the comparisons whose name holds this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Print an array of {what, ratio, ours_per_second, raw_per_second} instead of the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stage = Stage::set().await?;
    let sized = |usual: usize| (usual * arguments.scale / 100).max(1);
    let mut comparisons = Vec::new();
    let tell = |comparison: Comparison| {
        if !arguments.json {
            eprintln!("{}", comparison.line());
        }
        comparison
    };
    let wanted = |what: &str| what.contains(&arguments.only);
    if wanted("emit, one a transaction") {
        let listening = stage.listening_consumer().await?;
        comparisons.push(tell(emit::one_a_transaction(&stage, arguments.repetitions, sized(2_000)).await?));
        listening.stop().await?;
    }
    if wanted("emit_all") {
        comparisons.push(tell(emit::a_thousand_a_statement(&stage, arguments.repetitions, sized(20)).await?));
    }
    if wanted("copy") {
        comparisons.push(tell(emit::by_copy(&stage, arguments.repetitions, sized(40_000)).await?));
    }
    if wanted("drain") {
        stage.fill(sized(100_000), 10_000).await?;
        for workers in [1, 2] {
            comparisons.push(tell(drain::no_op(&stage, arguments.repetitions, sized(100_000), workers).await?));
        }
        comparisons.push(tell(drain::beside_parked(&stage, arguments.repetitions, sized(100_000)).await?));
    }
    if wanted("concurrent") {
        stage.fill(sized(10_000), 1_000).await?;
        comparisons.push(tell(concurrent::waiting(&stage, arguments.repetitions, sized(10_000)).await?));
    }
    stage.close().await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&comparisons)?);
    } else {
        println!("{}", table(&comparisons));
    }
    Ok(())
}
