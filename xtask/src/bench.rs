use anyhow::{Result, bail};

use crate::cargo::cargo;

/// Says nothing of its own on standard output: that is the table's, or the JSON's. `--peers` is another program, in a workspace of its own.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let peers = args.iter().any(|arg| arg == "--peers");
    let args = args.iter().filter(|arg| *arg != "--peers" && *arg != "--");
    let package: &[&str] =
        if peers { &["--manifest-path", "bench/peers/Cargo.toml"] } else { &["--package", "event-box-bench"] };
    let status = cargo(["run", "--release", "--quiet"]).args(package).arg("--").args(args).status()?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}
