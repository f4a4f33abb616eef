//! The model check for longer than the tests run it, and the proof that it can fail.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, run as execute, target_dir};

/// So long is emitted in a history.
const SECONDS: &str = "25";
/// A defect that goes uncaught in so many histories goes uncaught.
const SEEDS: u64 = 8;

/// Histories with faults on top, one after the other.
pub(crate) fn soak(minutes: u64, seed: Option<u64>) -> Result<()> {
    execute(&mut cargo(["build", "--package", "event-box-tests", "--bin", "model"]))?;
    let mut model = Command::new(program());
    model.args(["soak", "--minutes", &minutes.to_string()]);
    if let Some(seed) = seed {
        model.args(["--seed", &seed.to_string()]);
    }
    execute(&mut model)
}

/// Every defect that the engine can be given, and what the check said of it.
pub(crate) fn mutations(only: &[String]) -> Result<()> {
    let build = ["build", "--package", "event-box-tests", "--bin", "model", "--features", "mutations"];
    execute(&mut cargo(build))?;
    let known = all()?;
    if let Some(unknown) = only.iter().find(|name| !known.iter().any(|(known, _)| known == *name)) {
        bail!(
            "no mutation `{unknown}`: there are {}",
            known.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    let mut uncaught = Vec::new();
    if only.is_empty() {
        println!("| mutation | what it is | seed | what it lost |\n|---|---|---|---|");
        for seed in 1..=2 {
            if let Some(found) = found("", seed)? {
                bail!("without any mutation: {found}");
            }
        }
    }
    for (name, what) in known.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let mut caught = None;
        for seed in 1..=SEEDS {
            if let Some(found) = found(name, seed)? {
                caught = Some((seed, found));
                break;
            }
        }
        match caught {
            Some((seed, found)) => println!("| {name} | {what} | {seed} | {found} |"),
            None => {
                println!("| {name} | {what} | – | UNCAUGHT |");
                uncaught.push(name.as_str());
            }
        }
    }
    if !uncaught.is_empty() {
        bail!("uncaught in {SEEDS} histories: {}", uncaught.join(", "));
    }
    Ok(())
}

fn program() -> PathBuf {
    target_dir().join("debug/model")
}

fn all() -> Result<Vec<(String, String)>> {
    let Output { stdout, .. } =
        Command::new(program()).arg("mutations").output().context("the model check does not run")?;
    let lines = String::from_utf8(stdout)?;
    Ok(lines.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}

/// What one history with this defect came to; `None` where all was right.
fn found(mutation: &str, seed: u64) -> Result<Option<String>> {
    let mut model = Command::new(program());
    model.args(["run", "--seconds", SECONDS, "--seed", &seed.to_string()]).env("EVENT_BOX_MUTATION", mutation);
    let output = model.output().context("the model check does not run")?;
    if output.status.success() {
        return Ok(None);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    // Anything else would be the model's own failure, and proves nothing.
    let prefix = format!("error: seed {seed}: ");
    match error.lines().find_map(|line| line.strip_prefix(&prefix)) {
        Some(found) => Ok(Some(found.to_owned())),
        None => bail!("{mutation}, seed {seed}: the model check itself failed: {error}"),
    }
}
