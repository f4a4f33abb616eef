//! The command line's, for this benchmark and the peers'.

use clap::{Args, Subcommand};

use crate::latency::{Arrivals, Side};

/// What every benchmark of this repository takes.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Interleaved repetitions of each comparison.
    #[arg(long, default_value_t = 5)]
    pub repetitions: usize,
    /// How much work a repetition does, in per cent of the usual: for trying the benchmark itself.
    #[arg(long, default_value_t = 100)]
    pub scale: usize,
    /// The full sizes, such as backlogs of a million events: some 20 minutes more.
    #[arg(long)]
    pub full: bool,
    /// Only what has this text in its name; writes no RESULTS.md.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print an array of {what, ratio, line, reached, …} and nothing else; writes no RESULTS.md.
    #[arg(long)]
    pub json: bool,
}

impl Settings {
    /// Whether the result is one to keep.
    pub fn whole(&self) -> bool {
        self.only.is_empty() && !self.json && self.scale == 100
    }
}

/// The benchmark as its own child.
#[derive(Debug, Subcommand)]
pub enum Child {
    /// Consumes, for latency.
    Consume {
        /// The database.
        #[arg(long)]
        url: String,
        /// What is between emitter and consumer.
        #[arg(long)]
        side: Side,
        /// How many there will be.
        #[arg(long)]
        events: usize,
    },
    /// Emits, for latency.
    Emit {
        /// The database.
        #[arg(long)]
        url: String,
        /// What is between emitter and consumer.
        #[arg(long)]
        side: Side,
        /// How many there will be.
        #[arg(long)]
        events: usize,
        /// When they come.
        #[arg(long)]
        arrivals: Arrivals,
    },
    /// Drains, for memory.
    Drain {
        /// The database.
        #[arg(long)]
        url: String,
        /// How many there are.
        #[arg(long)]
        events: usize,
    },
    /// Ten groups with nothing to do.
    Idle {
        /// The database.
        #[arg(long)]
        url: String,
    },
}
