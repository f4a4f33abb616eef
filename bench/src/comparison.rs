//! Ratios, and the lines that they are to reach.

use serde::Serialize;

/// What a ratio is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Line {
    /// Rates.
    AtLeast(f64),
    /// Times, costs and sizes.
    AtMost(f64),
}

impl Line {
    fn is_reached_by(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(line) => ratio >= line,
            Self::AtMost(line) => ratio <= line,
        }
    }

    fn parts(self) -> (&'static str, f64) {
        match self {
            Self::AtLeast(line) => ("at least", line),
            Self::AtMost(line) => ("at most", line),
        }
    }
}

/// The least, the middle and the greatest of some repetitions.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; zeros of none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Self { min: 0.0, median: 0.0, max: 0.0 };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { min: *min, median, max: *max }
    }
}

/// What is measured beside what it is measured by.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The row's name.
    pub what: String,
    /// The median of the repetitions' own ratios.
    pub ratio: f64,
    /// What is to be reached, if anything is.
    pub line: Option<f64>,
    /// Whether the ratio is to be `at least` or `at most` the line.
    pub bound: Option<&'static str>,
    /// Whether it was.
    pub reached: Option<bool>,
    /// The least of the repetitions' ratios.
    pub ratio_min: f64,
    /// The greatest of the repetitions' ratios.
    pub ratio_max: f64,
    /// Of both sides' figures.
    pub unit: &'static str,
    /// The measured side.
    pub ours: Spread,
    /// The other side.
    pub beside: Spread,
    /// What a reader must know of this very run.
    pub note: Option<String>,
}

impl Comparison {
    /// Of both sides' figures, a pair a repetition.
    pub fn of(
        what: impl Into<String>,
        line: impl Into<Option<Line>>,
        unit: &'static str,
        ours: &[f64],
        beside: &[f64],
    ) -> Self {
        let ratios: Vec<_> = ours.iter().zip(beside).map(|(ours, beside)| ours / beside).collect();
        let ratio = Spread::of(&ratios);
        let line = line.into();
        Self {
            what: what.into(),
            ratio: ratio.median,
            line: line.map(|line| line.parts().1),
            bound: line.map(|line| line.parts().0),
            reached: line.map(|line| line.is_reached_by(ratio.median)),
            ratio_min: ratio.min,
            ratio_max: ratio.max,
            unit,
            ours: Spread::of(ours),
            beside: Spread::of(beside),
            note: None,
        }
    }

    /// Of figures whose measure is a constant, such as one core.
    pub fn with(
        what: impl Into<String>,
        line: impl Into<Option<Line>>,
        unit: &'static str,
        ours: &[f64],
        whole: f64,
    ) -> Self {
        Self::of(what, line, unit, ours, &vec![whole; ours.len()])
    }

    /// Says something of this run.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_reached_from_its_own_side() {
        let reached = |line, ours| Comparison::of("x", line, "/s", &[ours], &[100.0]).reached;
        assert_eq!(reached(Line::AtLeast(0.8), 80.0), Some(true));
        assert_eq!(reached(Line::AtLeast(0.8), 79.0), Some(false));
        assert_eq!(reached(Line::AtMost(1.2), 120.0), Some(true));
        assert_eq!(reached(Line::AtMost(1.2), 121.0), Some(false));
        assert_eq!(Comparison::of("x", None, "/s", &[1.0], &[1.0]).reached, None);
    }

    #[test]
    fn ratios_are_of_pairs() {
        let comparison = Comparison::of("x", None, "/s", &[1.0, 20.0, 300.0], &[2.0, 10.0, 300.0]);
        assert_eq!((comparison.ratio_min, comparison.ratio, comparison.ratio_max), (0.5, 1.0, 2.0));
        assert_eq!(comparison.ours.median, 20.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]).median, 2.5);
    }
}
