use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};
use event_box_dev::{Binaries, Search};

use crate::cargo::{run as execute, succeeds};

/// The client programs that tests run.
const PROGRAMS: [&str; 4] = ["psql", "pg_dump", "pgbench", "pg_basebackup"];

pub(crate) fn run() -> Result<()> {
    linker()?;
    let binaries = match Search::without_fetching().find() {
        Ok(binaries) if missing(&binaries).is_empty() => binaries,
        _ => install()?,
    };
    println!("PostgreSQL {} in {}", binaries.version(), binaries.dir().display());
    pgbouncer();
    let missing = missing(&binaries);
    if !missing.is_empty() {
        println!("tests that need {} will fail: {INSTALL}", missing.join(", "));
    }
    Ok(())
}

const INSTALL: &str = "install PostgreSQL with its client programs (`sudo apt-get install postgresql`, \
                       `sudo dnf install postgresql-server postgresql-contrib`, `brew install postgresql`)";

fn linker() -> Result<()> {
    if cfg!(unix) && !["cc", "gcc", "clang"].iter().any(|name| succeeds(Command::new(name).arg("--version"))) {
        bail!("no C compiler: install one (`sudo apt-get install gcc libc6-dev`, `xcode-select --install`)");
    }
    Ok(())
}

fn missing(binaries: &Binaries) -> Vec<&'static str> {
    PROGRAMS.into_iter().filter(|program| binaries.program(program).is_none()).collect()
}

fn install() -> Result<Binaries> {
    if env::var_os("EVENT_BOX_POSTGRES_BIN").is_some() {
        println!("EVENT_BOX_POSTGRES_BIN is set: nothing else is looked for or installed");
    } else if !can_install() {
        println!("PostgreSQL is missing or lacks client programs: {INSTALL}");
    } else if let Err(error) = apt_get("PostgreSQL is missing or lacks client programs", "postgresql") {
        println!("{error:#}");
    }
    Binaries::find().context("no PostgreSQL for the tests")
}

/// Tests of it fail without, and nothing else does.
fn pgbouncer() {
    // Where Debian puts it is not on everybody's path.
    let found = || {
        let mut names = ["pgbouncer", "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer"].into_iter();
        names.any(|name| succeeds(Command::new(name).arg("--version")))
    };
    if !found()
        && can_install()
        && let Err(error) = apt_get("PgBouncer is missing", "pgbouncer")
    {
        println!("{error:#}");
    }
    if !found() {
        println!(
            "tests behind PgBouncer will fail: install it (`sudo apt-get install pgbouncer`, `brew install pgbouncer`)"
        );
    }
}

fn can_install() -> bool {
    is_root() && succeeds(Command::new("apt-get").arg("--version"))
}

fn apt_get(why: &str, package: &str) -> Result<()> {
    println!("{why}: installing the package {package} with apt-get");
    let apt_get = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        execute(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt_get(&["update"])?;
    apt_get(&["install", "-y", "--no-install-recommends", package])
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
