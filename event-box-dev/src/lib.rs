//! A PostgreSQL for whoever has only cargo: found, fetched where there is none, started, and gone when its owner is.
//!
//! Not published: the tests, examples, benchmarks and chores of event-box rest on it.
//!
//! ```no_run
//! # async fn example() -> Result<(), event_box_dev::Error> {
//! use event_box_dev::Server;
//!
//! let server = Server::from_env_or_start()?;
//! let database = server.create_database("orders").await?;
//! let pool = database.pool(5).await?;
//! // …
//! database.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Server`]: the one that `EVENT_BOX_DATABASE_URL` names, or one of our own in a temporary directory. Its own is a direct
//!   child process that tests may [kill](Server::kill) and [restart](Server::restart).
//! - [`ServerOptions`]: its settings, `fsync=off` for tests.
//! - [`Database`]: a database with a name of its own on a server, dropped at the end.
//! - [`Search`] and [`Binaries`]: where a PostgreSQL is looked for, of which versions and with which programs, and what was found.
//!   `EVENT_BOX_POSTGRES_BIN` names a directory to use instead of looking.
//! - [`Upgrade`]: two versions, and how a server is brought from one to the other.
//! - [`migrate_for_build`]: event-box's tables, for checking its queries before it compiles.

mod account;
mod archive;
mod binaries;
mod cache;
#[cfg(unix)]
mod cluster;
mod database;
mod download;
mod error;
mod migrations;
mod npm;
mod options;
#[cfg(unix)]
mod port;
#[cfg(unix)]
mod postmaster;
mod search;
mod server;
mod source;
mod upgrade;
mod wanted;
#[cfg(unix)]
mod watchdog;
mod wheel;
#[cfg(unix)]
mod workdir;

pub use binaries::Binaries;
pub use database::Database;
pub use error::{Attempt, Error};
pub use migrations::migrate_for_build;
pub use options::ServerOptions;
pub use search::Search;
pub use server::Server;
pub use source::Source;
pub use upgrade::Upgrade;
