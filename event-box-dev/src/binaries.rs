use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Search, account};

/// A directory with a `postgres` and an `initdb` that run here.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
}

impl Binaries {
    /// Looks in all the places of [`Search::from_env`], fetching a copy as the last resort.
    ///
    /// # Errors
    /// [`Error::NotFound`] with all that was tried.
    pub fn find() -> Result<Self, Error> {
        Search::from_env().find()
    }

    /// Tries what lies in `dir`.
    pub(crate) fn at(dir: &Path) -> Result<Self, String> {
        for program in ["initdb", "postgres"] {
            if !executable(dir, program).is_file() {
                return Err(format!("no {program} in {}", dir.display()));
            }
        }
        version(&executable(dir, "initdb"))?;
        let version = version(&executable(dir, "postgres"))?;
        Ok(Self { dir: dir.to_owned(), version })
    }

    /// The directory they lie in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As in `18.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// As in 18.
    pub fn major(&self) -> u32 {
        leading_number(&self.version)
    }

    /// The path of `psql`, `pgbench`, `pg_dump` and their like, where they are there too.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(executable(&self.dir, name)).filter(|path| path.is_file())
    }

    /// The path of a client program that serves a server of this version: its own where there is one, otherwise that of a PostgreSQL
    /// [on this machine](Search::on_this_machine) that is no older. `pg_dump` refuses a server that is newer than itself.
    ///
    /// # Errors
    /// [`Error::NotFound`] with all that was tried.
    pub fn client(&self, name: &'static str) -> Result<PathBuf, Error> {
        if let Some(program) = self.program(name) {
            return Ok(program);
        }
        let newer = Search::on_this_machine().majors(self.major()..).having([name]).find()?;
        Ok(executable(newer.dir(), name))
    }
}

fn executable(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{EXE_SUFFIX}"))
}

/// Asks as the account that the server will run as: a directory which only root may enter is found out here.
fn version(program: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg("--version");
    account::drop_root(&mut command);
    let output = command.output().map_err(|error| format!("{} does not run: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
    let version = text.split_once("(PostgreSQL) ").and_then(|(_, rest)| rest.split_whitespace().next());
    match version {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => Err(format!("{} does not run: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The number that `text` starts with, or 0.
pub(crate) fn leading_number(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}
