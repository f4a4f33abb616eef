use std::path::Path;
use std::process::Command;

use anyhow::Result;
use event_box_dev::{Server, ServerOptions};

use crate::cargo::{cargo, run as execute, succeeds};
use crate::postgres::{self, Versions};
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
    let server = steps.run("server", || Ok(Server::from_env_or_start_with(&options())?));
    let Some(server) = server else { return };
    against(steps, "", &server, args, |command| command);
}

/// All tests on one version after the other, the upgrade from the oldest to the newest among them.
pub(crate) fn versions(Versions(majors): &Versions, args: &[String]) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("upgrade", postgres::upgrade);
    for major in majors {
        let name = format!("PostgreSQL {major}: ");
        let found = steps.run(format!("{name}server"), || {
            let binaries = postgres::server(*major)?;
            Ok((Server::start(&options().binaries(binaries.dir()))?, binaries))
        });
        let Some((server, binaries)) = found else { continue };
        against(&mut steps, &name, &server, args, |command| of_version(command, binaries.dir()));
    }
    steps.finish()
}

/// Servers which a test starts for itself are of the same version, and no test is left out for want of another.
fn of_version<'a>(command: &'a mut Command, binaries: &Path) -> &'a mut Command {
    command.env("EVENT_BOX_POSTGRES_BIN", binaries).env("EVENT_BOX_UPGRADE", "required")
}

fn options() -> ServerOptions {
    ServerOptions::new().setting("fsync", "off")
}

fn against(steps: &mut Steps, name: &str, server: &Server, args: &[String], on: impl Fn(&mut Command) -> &mut Command) {
    println!("{}", server.url());
    let execute = |command: &mut Command| execute(on(command).env("EVENT_BOX_DATABASE_URL", server.url()));
    steps.run(format!("{name}tests"), || {
        let mut command = if succeeds(&mut cargo(["nextest", "--version"])) {
            cargo(["nextest", "run", "--workspace", "--no-fail-fast"])
        } else {
            cargo(["test", "--workspace", "--all-targets", "--no-fail-fast"])
        };
        execute(command.args(args))
    });
    if args.is_empty() {
        steps.run(format!("{name}doc tests"), || {
            execute(&mut cargo(["test", "--doc", "--workspace", "--no-fail-fast"]))
        });
    }
}
