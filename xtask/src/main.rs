//! Every chore of the project: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cargo;
mod ci;
mod deny;
mod model;
mod postgres;
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
        /// A major version of PostgreSQL, or `all` for every supported one after the other. It is found, or fetched, and a server of its
        /// own started, whatever EVENT_BOX_DATABASE_URL says.
        #[arg(long, value_name = "15|16|17|18|all")]
        postgres: Option<postgres::Versions>,
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
    /// Run the model check for so long, with faults on top: histories of half a minute, one after the other.
    Soak {
        #[arg(long)]
        minutes: u64,
        /// Of the first history; each has the next number. Drawn where it is not given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Show that the model check can fail: it must find every defect that the engine can be given, and nothing without one.
    Mutations {
        /// These alone.
        names: Vec<String>,
    },
    /// Measure event-box beside raw SQL, in some ten minutes, and write bench/RESULTS.md.
    Bench {
        /// For the benchmark: `--peers` (beside other crates instead), `--full`, `--json`, `--only <text>`, `--repetitions <n>`; all of them by
        /// `cargo xtask bench -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse().command {
        Command::Setup => setup::run(),
        Command::Test { postgres: None, args } => test::run(&args),
        Command::Test { postgres: Some(versions), args } => test::versions(&versions, &args),
        Command::Prepare { check: false } => prepare::write(),
        Command::Prepare { check: true } => prepare::check(),
        Command::Surface { check: false } => surface::write(),
        Command::Surface { check: true } => surface::check(),
        Command::Ci => ci::run(),
        Command::Soak { minutes, seed } => model::soak(minutes, seed),
        Command::Mutations { names } => model::mutations(&names),
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
