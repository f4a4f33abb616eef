//! What is measured, a file a subject.

mod backlog;
mod concurrent;
mod drain;
pub mod emit;
mod groups;
pub mod idle;
mod latency;
mod live;
mod memory;
mod settings;
mod storage;
mod trips;

use crate::{comparison::Comparison, figure::Figure, latency::Arrivals, stage::Bench};

/// Comparisons that are measured together, on databases of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// One event a transaction.
    EmitOne,
    /// Many a statement.
    EmitAll,
    /// COPY.
    Copy,
    /// With one worker and with two.
    DrainNoOp,
    /// Handlers that write one row.
    DrainWriting,
    /// Handlers that write many at once.
    DrainOnBatch,
    /// Beside events that wait for a retry.
    DrainParked,
    /// Beside a transaction that stays open.
    DrainOpenTransaction,
    /// Even arrivals.
    LatencyEven,
    /// Poisson arrivals.
    LatencyPoisson,
    /// A group that is far behind.
    Backlog,
    /// Five at once.
    Groups,
    /// Ten with nothing to do.
    Idle,
    /// Of a draining process.
    Memory,
    /// Emitters and workers at once.
    Live,
    /// Handlers that wait.
    Concurrent,
    /// WAL, dead tuples, sizes.
    Storage,
    /// Statements and round trips.
    Trips,
    /// Workers and batch sizes.
    Settings,
}

/// What a suite measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// With lines to reach.
    pub comparisons: Vec<Comparison>,
    /// Without.
    pub figures: Vec<Figure>,
}

impl Measured {
    /// An array of both, figures without a ratio.
    ///
    /// # Errors
    /// None that they can meet.
    pub fn json(&self) -> anyhow::Result<String> {
        let mut rows = Vec::new();
        for comparison in &self.comparisons {
            rows.push(serde_json::to_value(comparison)?);
        }
        for figure in &self.figures {
            let mut row = serde_json::to_value(figure)?;
            for absent in ["ratio", "line", "reached"] {
                row[absent] = serde_json::Value::Null;
            }
            rows.push(row);
        }
        Ok(serde_json::to_string_pretty(&rows)?)
    }
}

impl Suite {
    /// In the order of the table.
    pub const ALL: [Self; 19] = [
        Self::EmitOne,
        Self::EmitAll,
        Self::Copy,
        Self::DrainNoOp,
        Self::DrainWriting,
        Self::DrainOnBatch,
        Self::LatencyEven,
        Self::LatencyPoisson,
        Self::DrainOpenTransaction,
        Self::DrainParked,
        Self::Backlog,
        Self::Groups,
        Self::Idle,
        Self::Memory,
        Self::Live,
        Self::Concurrent,
        Self::Storage,
        Self::Trips,
        Self::Settings,
    ];

    /// What `--only` looks for its text in.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmitOne => "emit one a transaction",
            Self::EmitAll => "emit_all",
            Self::Copy => "copy",
            Self::DrainNoOp => "drain no-op",
            Self::DrainWriting => "drain writing",
            Self::DrainOnBatch => "drain on_batch",
            Self::DrainParked => "drain parked",
            Self::DrainOpenTransaction => "drain open transaction",
            Self::LatencyEven => "latency even",
            Self::LatencyPoisson => "latency poisson",
            Self::Backlog => "backlog",
            Self::Groups => "five groups",
            Self::Idle => "idle groups",
            Self::Memory => "memory",
            Self::Live => "live",
            Self::Concurrent => "concurrent",
            Self::Storage => "figures: storage",
            Self::Trips => "figures: statements and round trips",
            Self::Settings => "figures: workers and batch sizes",
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Whatever fails of it: no figure is made up.
    pub async fn run(self, bench: &Bench) -> anyhow::Result<Measured> {
        let rows = |comparisons| Measured { comparisons, figures: Vec::new() };
        let row = |comparison| rows(vec![comparison]);
        let figures = |figures| Measured { comparisons: Vec::new(), figures };
        Ok(match self {
            Self::EmitOne => row(emit::one_a_transaction(bench).await?),
            Self::EmitAll => row(emit::a_thousand_a_statement(bench).await?),
            Self::Copy => row(emit::by_copy(bench).await?),
            Self::DrainNoOp => rows(drain::no_op(bench).await?),
            Self::DrainWriting => rows(drain::writing(bench).await?),
            Self::DrainOnBatch => row(drain::by_unnest(bench).await?),
            Self::DrainParked => row(drain::beside_parked(bench).await?),
            Self::DrainOpenTransaction => row(drain::beside_an_open_transaction(bench).await?),
            Self::LatencyEven => rows(latency::latency(bench, Arrivals::Even).await?),
            Self::LatencyPoisson => rows(latency::latency(bench, Arrivals::Poisson).await?),
            Self::Backlog => row(backlog::cost_of_a_batch(bench).await?),
            Self::Groups => row(groups::five(bench).await?),
            Self::Idle => {
                let (comparisons, figures) = idle::idle(bench).await?;
                Measured { comparisons, figures }
            }
            Self::Memory => rows(memory::memory(bench).await?),
            Self::Live => rows(live::live(bench).await?),
            Self::Concurrent => row(concurrent::waiting(bench).await?),
            Self::Storage => figures(storage::storage(bench).await?),
            Self::Trips => figures(trips::trips(bench).await?),
            Self::Settings => figures(settings::settings(bench).await?),
        })
    }
}
