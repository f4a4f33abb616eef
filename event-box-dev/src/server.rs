use std::env;
use std::path::Path;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

#[cfg(unix)]
use crate::cluster::Cluster;
use crate::database::with_database;
use crate::{Binaries, Database, Error, ServerOptions};

/// A PostgreSQL server: given by its URL, or started by us.
///
/// One of our own is stopped and its directory removed when the value is dropped, and just so when this process dies in whatever
/// way before: a watchdog child sees to it. Its methods block for as long as PostgreSQL takes.
#[derive(Debug)]
pub struct Server {
    url: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Given,
    #[cfg(unix)]
    Started(Cluster),
}

impl Server {
    /// The server of `EVENT_BOX_DATABASE_URL` where that is set, otherwise a new one with the default [`ServerOptions`].
    ///
    /// # Errors
    /// Those of [`at`](Self::at) and [`start`](Self::start).
    pub fn from_env_or_start() -> Result<Self, Error> {
        Self::from_env_or_start_with(&ServerOptions::new())
    }

    /// The server of `EVENT_BOX_DATABASE_URL` where that is set, whatever its settings, otherwise a new one with `options`.
    ///
    /// # Errors
    /// Those of [`at`](Self::at) and [`start`](Self::start).
    pub fn from_env_or_start_with(options: &ServerOptions) -> Result<Self, Error> {
        match env::var("EVENT_BOX_DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self::at(url),
            _ => Self::start(options),
        }
    }

    /// The running server of `url`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn at(url: impl Into<String>) -> Result<Self, Error> {
        let url = url.into();
        PgConnectOptions::from_str(&url).map_err(Error::Url)?;
        Ok(Self { url, kind: Kind::Given })
    }

    /// Starts a server of our own on a free port of the loopback, which trusts everybody, with its data in a new temporary
    /// directory. Where we are root it runs as `postgres`, or else `nobody`.
    ///
    /// # Errors
    /// [`Error::NotFound`] without binaries, [`Error::Start`] with the end of the log, [`Error::Unsupported`] except on Unix.
    #[cfg(unix)]
    pub fn start(options: &ServerOptions) -> Result<Self, Error> {
        let cluster = Cluster::start(options)?;
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port());
        Ok(Self { url, kind: Kind::Started(cluster) })
    }

    /// # Errors
    /// [`Error::Unsupported`].
    #[cfg(not(unix))]
    pub fn start(_options: &ServerOptions) -> Result<Self, Error> {
        Err(Error::Unsupported)
    }

    /// The URL that was given, or that of database `postgres` on our own.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of another database. Its name is put in as it is.
    pub fn url_of(&self, database: &str) -> String {
        with_database(&self.url, database)
    }

    /// The port that it listens on; a restart keeps it.
    pub fn port(&self) -> u16 {
        PgConnectOptions::from_str(&self.url).map_or(5432, |options| options.get_port())
    }

    /// Where the data of a server of our own lies.
    pub fn data_dir(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Given => None,
            #[cfg(unix)]
            Kind::Started(cluster) => Some(cluster.data_dir()),
        }
    }

    /// The last 40 lines that a server of our own has logged, or nothing.
    pub fn log_tail(&self) -> String {
        match &self.kind {
            Kind::Given => String::new(),
            #[cfg(unix)]
            Kind::Started(cluster) => cluster.log_tail(),
        }
    }

    /// Kills the server's main process (SIGKILL), as a crash would, and waits until it is dead. Its children notice by themselves,
    /// in general at once. Nothing happens where it does not run.
    ///
    /// # Errors
    /// [`Error::Given`] for a server that is not ours.
    pub fn kill(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Given => Err(Error::Given("kill")),
            #[cfg(unix)]
            Kind::Started(cluster) => cluster.kill(),
        }
    }

    /// Stops the server fast: open transactions are rolled back, everything is written. Nothing happens where it does not run.
    ///
    /// # Errors
    /// [`Error::Given`] for a server that is not ours.
    pub fn stop(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Given => Err(Error::Given("stop")),
            #[cfg(unix)]
            Kind::Started(cluster) => cluster.stop(),
        }
    }

    /// Starts the server again on the same data and port, and waits until it accepts connections. One that runs is stopped first.
    ///
    /// # Errors
    /// [`Error::Given`] for a server that is not ours, [`Error::Start`] with the end of the log.
    pub fn restart(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Given => Err(Error::Given("restart")),
            #[cfg(unix)]
            Kind::Started(cluster) => cluster.restart(),
        }
    }

    /// Stops the server fast, brings its data to the version of `binaries` by `pg_upgrade`, and starts that on the same port.
    /// [`Upgrade`](crate::Upgrade) finds two versions that have all which that takes.
    ///
    /// # Errors
    /// [`Error::Given`] for a server that is not ours, [`Error::Start`] with what `pg_upgrade` printed. The server is of no more use then.
    pub fn upgrade(&mut self, binaries: &Binaries) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Given => Err(Error::Given("upgrade")),
            #[cfg(unix)]
            Kind::Started(cluster) => cluster.upgrade(binaries),
        }
    }

    /// Creates a database named `<prefix>_<unique part>`; the prefix may have 30 bytes. It is UTF-8 where the server is.
    ///
    /// # Errors
    /// [`Error::Database`] where the server cannot be reached or refuses.
    pub async fn create_database(&self, prefix: &str) -> Result<Database, Error> {
        Database::create(prefix, &self.url).await
    }
}
