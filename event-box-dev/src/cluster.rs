use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::postmaster::{Postmaster, command};
use crate::watchdog::Watchdog;
use crate::{Binaries, Error, ServerOptions, port, workdir};

/// Another process may take a port between our look and the server's start.
const PORTS_TRIED: usize = 5;
/// How long what a killed server left running may keep its successor from starting.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// A server of our own and its directory, both gone with this value.
#[derive(Debug)]
pub(crate) struct Cluster {
    binaries: Binaries,
    settings: Vec<(String, String)>,
    dir: PathBuf,
    data_dir: PathBuf,
    port: u16,
    running: Mutex<Option<Postmaster>>,
    /// Last, because it removes the directory.
    _watchdog: Watchdog,
}

impl Cluster {
    pub(crate) fn start(options: &ServerOptions) -> Result<Self, Error> {
        let binaries = options.search.find()?;
        let dir = workdir::create()?;
        // Before anything that would be left behind.
        let watchdog = Watchdog::spawn(&dir).map_err(|source| {
            let _ = fs::remove_dir_all(&dir);
            Error::Io { action: "start sh".into(), source }
        })?;
        let mut cluster = Self {
            binaries,
            settings: options.settings.clone(),
            data_dir: dir.join("data"),
            dir,
            port: port::free(),
            running: Mutex::default(),
            _watchdog: watchdog,
        };
        cluster.init(&cluster.data_dir, &[])?;
        for _ in 1..PORTS_TRIED {
            match cluster.launch() {
                Err(Error::Start { log, .. }) if port_is_taken(&log) => cluster.port = port::free(),
                outcome => return outcome.map(|()| cluster),
            }
        }
        cluster.launch().map(|()| cluster)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn kill(&self) -> Result<(), Error> {
        self.end(Postmaster::kill, "kill PostgreSQL")
    }

    pub(crate) fn stop(&self) -> Result<(), Error> {
        self.end(Postmaster::stop, "stop PostgreSQL")
    }

    pub(crate) fn restart(&self) -> Result<(), Error> {
        self.stop()?;
        let deadline = Instant::now() + LEFTOVERS;
        loop {
            match self.launch() {
                Err(Error::Start { log, .. }) if passes(&log) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }

    /// Through `pg_upgrade`, which wants the data of the new version made before, and just as the old one's was.
    pub(crate) fn upgrade(&mut self, binaries: &Binaries) -> Result<(), Error> {
        self.stop()?;
        let old = mem::replace(&mut self.binaries, binaries.clone());
        let [data, next, previous] = ["data", "next", "previous"].map(|name| self.dir.join(name));
        self.init(&next, if binaries.major() >= 18 { &["--no-data-checksums"] } else { &[] })?;
        let log = self.log().map_err(Error::io("open the log file"))?;
        let pg_upgrade = || {
            let program = binaries.program("pg_upgrade").ok_or(io::ErrorKind::NotFound)?;
            let mut pg_upgrade = command(&program, &self.dir, &log)?;
            pg_upgrade.arg("-b").arg(old.dir()).arg("-B").arg(binaries.dir()).arg("-d").arg(&data).arg("-D").arg(&next);
            pg_upgrade.args(["-U", "postgres", "--no-sync"]);
            pg_upgrade.args(["-p", &port::free().to_string(), "-P", &port::free().to_string()]);
            pg_upgrade.status()
        };
        let status = pg_upgrade().map_err(|error| self.failure(format!("pg_upgrade does not run: {error}"), 0))?;
        if !status.success() {
            return Err(self.failure(format!("pg_upgrade ended with {status}"), 0));
        }
        let moved = fs::rename(&data, previous).and_then(|()| fs::rename(next, data));
        moved.map_err(Error::io("put the new data in the place of the old"))?;
        self.launch()
    }

    pub(crate) fn log_tail(&self) -> String {
        self.log_since(0)
    }

    fn init(&self, data_dir: &Path, more: &[&str]) -> Result<(), Error> {
        let log = self.log().map_err(Error::io("create the log file"))?;
        let initdb = || {
            let program = self.binaries.program("initdb").ok_or(io::ErrorKind::NotFound)?;
            let mut initdb = command(&program, &self.dir, &log)?;
            initdb
                .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
                .arg(data_dir)
                .args(more);
            initdb.status()
        };
        let status = initdb().map_err(|error| self.failure(format!("initdb does not run: {error}"), 0))?;
        if status.success() { Ok(()) } else { Err(self.failure(format!("initdb ended with {status}"), 0)) }
    }

    fn launch(&self) -> Result<(), Error> {
        let log = self.log().map_err(Error::io("open the log file"))?;
        let before = log.metadata().map_or(0, |metadata| metadata.len());
        let start = || {
            let program = self.binaries.program("postgres").ok_or(io::ErrorKind::NotFound)?;
            let mut postgres = command(&program, &self.dir, &log)?;
            postgres.arg("-D").arg(&self.data_dir).args(["-p", &self.port.to_string()]).arg("-k").arg(&self.dir);
            postgres.args(["-c", "listen_addresses=127.0.0.1"]);
            for (name, value) in &self.settings {
                postgres.arg("-c").arg(format!("{name}={value}"));
            }
            Postmaster::start(postgres, &self.data_dir)
        };
        *self.running() = Some(start().map_err(|error| self.failure(error.to_string(), before))?);
        Ok(())
    }

    fn end(&self, how: fn(&mut Postmaster) -> io::Result<()>, action: &str) -> Result<(), Error> {
        match self.running().take() {
            Some(mut postmaster) => how(&mut postmaster).map_err(Error::io(action)),
            None => Ok(()),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Postmaster>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.dir.join("log"))
    }

    /// The last of what was printed after the first `offset` bytes.
    fn log_since(&self, offset: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.dir.join("log"))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn failure(&self, reason: String, log_offset: u64) -> Error {
        Error::Start { binaries: self.binaries.dir().to_owned(), reason, log: self.log_since(log_offset) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.end(Postmaster::abort, "");
    }
}

fn port_is_taken(log: &str) -> bool {
    log.contains("could not create any TCP/IP sockets")
}

/// Whether a start failed for what passes by itself: children of a killed server that have not noticed yet.
fn passes(log: &str) -> bool {
    port_is_taken(log) || log.contains("is still in use") || log.contains("already exists")
}
