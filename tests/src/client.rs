use std::process::Command;

use event_box_dev::Binaries;

/// A client program of PostgreSQL for the server under test: `psql`, `pg_dump`, `pgbench`, `pg_basebackup`.
///
/// # Panics
/// Where there is none, with what to install.
pub fn client(program: &'static str) -> Command {
    let path = Binaries::find().and_then(|binaries| binaries.client(program));
    Command::new(path.unwrap_or_else(|error| panic!("{program} is needed: {error}")))
}
