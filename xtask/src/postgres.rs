use std::str::FromStr;

use anyhow::Result;
use event_box_dev::{Binaries, Search, Upgrade};

/// The client programs that tests run.
pub(crate) const CLIENTS: [&str; 4] = ["psql", "pg_dump", "pgbench", "pg_basebackup"];

/// Every major version that event-box supports.
const SUPPORTED: [u32; 4] = [15, 16, 17, 18];

/// What `--postgres` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versions(pub(crate) Vec<u32>);

impl FromStr for Versions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(SUPPORTED.to_vec()));
        }
        let major = SUPPORTED.into_iter().find(|major| major.to_string() == text);
        major.map(|major| Self(vec![major])).ok_or_else(|| "expected 15, 16, 17, 18 or all".to_owned())
    }
}

/// The server's programs of a version, found or fetched. Where they lack client programs, those of a newer one are there too.
pub(crate) fn server(major: u32) -> Result<Binaries> {
    let everywhere = || Search::everywhere().majors(major..=major);
    let binaries = everywhere().having(CLIENTS).find().or_else(|_| everywhere().find())?;
    println!("PostgreSQL {} in {}", binaries.version(), binaries.dir().display());
    for client in CLIENTS.into_iter().filter(|client| binaries.program(client).is_none()) {
        let newer = Search::everywhere().majors(major..).having(CLIENTS).find()?;
        println!("{client} of PostgreSQL {} in {}", newer.version(), newer.dir().display());
    }
    Ok(binaries)
}

/// What the test of an upgrade needs, found or fetched.
pub(crate) fn upgrade() -> Result<()> {
    let Upgrade { old, new } = Upgrade::find(Search::everywhere)?;
    println!("from PostgreSQL {} in {}", old.version(), old.dir().display());
    println!("to PostgreSQL {} in {}", new.version(), new.dir().display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Versions;

    #[test]
    fn one_version_or_all_may_be_asked_for() {
        assert_eq!("17".parse(), Ok(Versions(vec![17])));
        assert_eq!("all".parse(), Ok(Versions(vec![15, 16, 17, 18])));
        for wrong in ["14", "19", "", "15,16", "+15", "newest"] {
            assert!(wrong.parse::<Versions>().is_err(), "{wrong}");
        }
    }
}
