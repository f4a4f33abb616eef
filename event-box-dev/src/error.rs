use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no PostgreSQL, or no database on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No source had usable binaries. Display lists all that were tried.
    #[error(
        "no usable PostgreSQL{wanted} found: install one (`apt-get install postgresql`, `brew install postgresql`; any version from \
         https://www.postgresql.org/download), or set EVENT_BOX_DATABASE_URL to the URL of a server, or EVENT_BOX_POSTGRES_BIN \
         to a directory with initdb and postgres; tried:{}",
        list(tried)
    )]
    NotFound {
        /// What it was to be and to have, as in ` 17 or newer with pg_dump`; empty where any would do.
        wanted: String,
        /// Every source's failure.
        tried: Vec<Attempt>,
    },
    /// Binaries were found, but no server came of them.
    #[error("PostgreSQL of {} does not start: {reason}\n{log}", binaries.display())]
    Start {
        /// The directory of `initdb` and `postgres`.
        binaries: PathBuf,
        /// What went wrong.
        reason: String,
        /// The end of what the server or `initdb` printed.
        log: String,
    },
    /// A running server of our own was asked for, but this one was given by its URL.
    #[error("cannot {0} a server that was given by its URL: start one with `Server::start(..)`")]
    Given(&'static str),
    /// Servers are started on Unix only.
    #[error("PostgreSQL is started on Unix only: set EVENT_BOX_DATABASE_URL to the URL of a running server")]
    Unsupported,
    /// Not a URL of PostgreSQL.
    #[error("the URL of PostgreSQL is not valid, expected `postgres://user@host:port/database`")]
    Url(#[source] sqlx::Error),
    /// A file or a process failed us.
    #[error("cannot {action}")]
    Io {
        /// What was being done, and with which file.
        action: String,
        /// The cause.
        source: io::Error,
    },
    /// The server refused.
    #[error("cannot {action}")]
    Database {
        /// What was being done.
        action: String,
        /// The cause.
        source: sqlx::Error,
    },
    /// event-box's tables could not be made.
    #[error("cannot apply the migrations of {}", path.display())]
    Migrate {
        /// Where the migrations lie.
        path: PathBuf,
        /// The cause.
        source: sqlx::migrate::MigrateError,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }

    pub(crate) fn database(action: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { action: action.into(), source }
    }
}

/// A place where PostgreSQL was looked for in vain.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub(crate) source: String,
    pub(crate) reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  {attempt}")).collect()
}
