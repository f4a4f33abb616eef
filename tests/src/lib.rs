//! What the integration tests share: a log of its own for each test on a real PostgreSQL, events, and consumers in the background.

mod client;
mod drained;
mod events;
mod full;
mod logged;
mod memory;
mod mischief;
pub mod model;
mod pgbouncer;
mod proxy;
mod running;
mod seen;
mod standby;
mod test_log;
mod traced;

pub use crate::{
    client::client,
    drained::{Drained, wait_until_drained},
    events::{Bulky, Counted, Noted, Tallied, emit_either, emit_next},
    full::full,
    logged::{Line, Logged},
    memory::peak_memory,
    mischief::{Mischief, Mishap},
    pgbouncer::PgBouncer,
    proxy::{Proxy, Way},
    running::Running,
    seen::{Seen, assert_each_once_in_order, seen_by, wait_until_seen},
    standby::{make_synchronous, promote, start_standby},
    test_log::{TestLog, keys_of_one_partition},
    traced::Traced,
};

/// How long a test waits for what must come.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// So does that of the telemetry.
#[cfg(doctest)]
#[doc = include_str!("../../docs/telemetry.md")]
pub struct Telemetry;

/// So do those for who comes from Python.
#[cfg(doctest)]
#[doc = include_str!("../../docs/from-python.md")]
pub struct FromPython;
