use crate::{Binaries, Error, Search};

const OLDEST: u32 = 15;
const NEWEST: u32 = 18;

/// What `pg_upgrade` runs of the old version.
const OLD: [&str; 3] = ["pg_controldata", "pg_ctl", "pg_resetwal"];
/// What `pg_upgrade` runs of the new version, itself included.
const NEW: [&str; 8] =
    ["pg_controldata", "pg_ctl", "pg_dump", "pg_dumpall", "pg_resetwal", "pg_restore", "pg_upgrade", "psql"];

/// The two versions of an upgrade by `pg_upgrade`, each with all that it runs: [`Server::upgrade`](crate::Server::upgrade).
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The oldest version that event-box supports, 15.
    pub old: Binaries,
    /// The newest that there is, 16 to 18.
    pub new: Binaries,
}

impl Upgrade {
    /// Looks for both in the places of `search`, for the new one in all of them before a version that is older.
    ///
    /// # Errors
    /// [`Error::NotFound`] with all that was tried for the one that is missing.
    pub fn find(search: fn() -> Search) -> Result<Self, Error> {
        let old = search().majors(OLDEST..=OLDEST).having(OLD).find()?;
        let newest =
            (OLDEST + 1..=NEWEST).rev().find_map(|major| search().majors(major..=major).having(NEW).find().ok());
        let new = newest.map_or_else(|| search().majors(OLDEST + 1..).having(NEW).find(), Ok)?;
        Ok(Self { old, new })
    }
}
