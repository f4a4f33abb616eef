//! Figures without a line.

use serde::Serialize;

/// A figure without a line: measured and stated.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The row's name.
    pub what: String,
    /// The median of its repetitions.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
    /// The same of the raw table, where there is such a thing.
    pub raw: Option<f64>,
}

impl Figure {
    /// A figure of event-box alone.
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, raw: None }
    }

    /// The raw table's beside it.
    #[must_use]
    pub fn beside(mut self, raw: f64) -> Self {
        self.raw = Some(raw);
        self
    }
}
