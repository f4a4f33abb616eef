use std::path::PathBuf;

use crate::{Search, Source};

/// How to start a [`Server`](crate::Server): by default as PostgreSQL comes, for 200 connections, with the binaries that
/// [`Search::from_env`] finds.
///
/// ```
/// use event_box_dev::ServerOptions;
///
/// let options = ServerOptions::new().setting("fsync", "off").max_connections(50);
/// ```
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub(crate) search: Search,
    pub(crate) settings: Vec<(String, String)>,
}

impl ServerOptions {
    /// The defaults. They are durable: benchmarks measure what an application would see.
    pub fn new() -> Self {
        Self { search: Search::from_env(), settings: vec![("max_connections".into(), "200".into())] }
    }

    /// Sets a configuration parameter, as in `postgresql.conf`. The last word on a name wins. Tests set `fsync` to `off`: the
    /// server's death loses nothing then either, only that of the machine does.
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// Connections that the server takes at once, 200 by default.
    pub fn max_connections(self, connections: u32) -> Self {
        self.setting("max_connections", connections)
    }

    /// Uses the `initdb` and `postgres` of this directory alone.
    pub fn binaries(self, dir: impl Into<PathBuf>) -> Self {
        self.search(Search::new([Source::Directory(dir.into())]))
    }

    /// Looks for binaries in these places instead.
    pub fn search(mut self, search: Search) -> Self {
        self.search = search;
        self
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}
