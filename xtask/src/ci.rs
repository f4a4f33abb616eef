use anyhow::Result;

use crate::cargo::{cargo, run as execute};
use crate::steps::Steps;
use crate::{deny, prepare, setup, surface, test};

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    steps.run("setup", setup::run);
    steps.run("format", || execute(&mut cargo(["fmt", "--all", "--check"])));
    steps.run("clippy", || {
        execute(&mut cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]))
    });
    steps.run("documentation", || {
        execute(cargo(["doc", "--workspace", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    steps.run("public surface", surface::check);
    steps.run("queries", prepare::check);
    steps.run("dependencies", deny::run);
    test::all(&mut steps, &[]);
    steps.finish()
}
