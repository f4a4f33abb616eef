use std::env;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, account};

/// A path of a Unix socket may have 103 bytes on macOS; ours is in the directory and called `.s.PGSQL.12345`.
const LONGEST: usize = 103 - "/event-box-123456/.s.PGSQL.12345".len();

/// Makes a new temporary directory for a server's data, socket and log, which belongs to whom the server runs as.
pub(crate) fn create() -> Result<PathBuf, Error> {
    let parent = parent();
    let made = || -> io::Result<PathBuf> {
        let dir = tempfile::Builder::new().prefix("event-box-").tempdir_in(&parent)?;
        account::give(dir.path())?;
        Ok(dir.keep())
    };
    made().map_err(Error::io(format!("create a directory in {}", parent.display())))
}

fn parent() -> PathBuf {
    let dir = env::temp_dir();
    let fits = dir.as_os_str().len() <= LONGEST && (!account::is_root() || open_to_all(&dir));
    if fits { dir } else { PathBuf::from("/tmp") }
}

/// Whether another user may go there.
fn open_to_all(dir: &Path) -> bool {
    dir.ancestors().all(|dir| dir.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0))
}
