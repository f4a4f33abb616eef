//! Every chore of the project: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cargo;
mod ci;
mod deny;
mod prepare;
mod queries;
mod setup;
mod steps;
mod surface;
mod test;

/// The chores of event-box.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine ready for the tests: a linker, PostgreSQL and its client programs, PgBouncer.
    Setup,
    /// Run every test against one PostgreSQL. With arguments, those go to nextest and the doc tests are left out.
    Test {
        /// For `cargo nextest run`, or `cargo test` where that is not installed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check event-box's queries against its migrations and write event-box/.sqlx.
    Prepare {
        /// Write nothing, fail where event-box/.sqlx is not what it should be.
        #[arg(long)]
        check: bool,
    },
    /// Write event-box's public surface to docs/public-api.txt.
    Surface {
        /// Write nothing, fail where the list is not what it should be.
        #[arg(long)]
        check: bool,
    },
    /// Everything that a change must pass. Runs all of it and reports what failed.
    Ci,
    /// Run the benchmark.
    Bench {
        /// For the benchmark: `cargo xtask bench -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse().command {
        Command::Setup => setup::run(),
        Command::Test { args } => test::run(&args),
        Command::Prepare { check: false } => prepare::write(),
        Command::Prepare { check: true } => prepare::check(),
        Command::Surface { check: false } => surface::write(),
        Command::Surface { check: true } => surface::check(),
        Command::Ci => ci::run(),
        Command::Bench { args } => bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
