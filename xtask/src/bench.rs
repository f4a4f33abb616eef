use anyhow::Result;

use crate::cargo::{cargo, run as execute};

pub(crate) fn run(args: &[String]) -> Result<()> {
    execute(cargo(["run", "--release", "--package", "event-box-bench", "--"]).args(args))
}
