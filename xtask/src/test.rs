use std::process::Command;

use anyhow::Result;
use event_box_dev::{Server, ServerOptions};

use crate::cargo::{cargo, run as execute, succeeds};
use crate::setup;
use crate::steps::Steps;

pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("setup", setup::run);
    all(&mut steps, args);
    steps.finish()
}

/// All tests as steps, on one server that lives as long.
pub(crate) fn all(steps: &mut Steps, args: &[String]) {
    let options = ServerOptions::new().setting("fsync", "off");
    let server = steps.run("server", || {
        let server = Server::from_env_or_start_with(&options)?;
        println!("{}", server.url());
        Ok(server)
    });
    let Some(server) = server else { return };
    let execute = |command: &mut Command| execute(command.env("EVENT_BOX_DATABASE_URL", server.url()));

    steps.run("tests", || {
        let mut command = if succeeds(&mut cargo(["nextest", "--version"])) {
            cargo(["nextest", "run", "--workspace", "--no-fail-fast"])
        } else {
            cargo(["test", "--workspace", "--all-targets", "--no-fail-fast"])
        };
        execute(command.args(args))
    });
    if args.is_empty() {
        steps.run("doc tests", || execute(&mut cargo(["test", "--doc", "--workspace", "--no-fail-fast"])));
    }
}
