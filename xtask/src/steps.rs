use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Steps that all run, whatever became of those before, and a table of how they ended.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    failure: Option<String>,
}

impl Steps {
    pub(crate) fn run<T>(&mut self, name: impl Into<String>, step: impl FnOnce() -> Result<T>) -> Option<T> {
        let name = name.into();
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = step();
        let failure = outcome.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("{name}: {failure}");
        }
        self.done.push(Step { name, took: start.elapsed(), failure });
        outcome.ok()
    }

    /// Prints the table.
    pub(crate) fn finish(self) -> Result<()> {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0);
        println!();
        for Step { name, took, failure } in &self.done {
            let outcome = failure.as_deref().map_or_else(|| "ok".to_owned(), |failure| format!("FAILED: {failure}"));
            println!("{name:width$}  {:>7.1} s  {outcome}", took.as_secs_f64());
        }
        let failed: Vec<_> =
            self.done.iter().filter(|step| step.failure.is_some()).map(|step| step.name.as_str()).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
