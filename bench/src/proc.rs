//! What `/proc` tells of processes on this machine.

use std::{fs, time::Duration};

use anyhow::Context;

/// The time that a process has spent on a core, all its threads together: to the nanosecond, by the scheduler's own count.
///
/// # Errors
/// Where there is no `/proc` like Linux', or no such process.
pub fn cpu(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).with_context(|| format!("process {process}"))? {
        // A thread may end in between.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The memory that a process has resident now, in bytes.
///
/// # Errors
/// As [`cpu`].
pub fn resident(process: u32) -> anyhow::Result<f64> {
    status(process, "VmRSS:")
}

/// The most that it ever had resident, in bytes.
///
/// # Errors
/// As [`cpu`].
pub fn most_resident(process: u32) -> anyhow::Result<f64> {
    status(process, "VmHWM:")
}

fn status(process: u32, name: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} there"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1_024.0)
}
