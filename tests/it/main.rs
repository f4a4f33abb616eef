//! Integration tests, a module a capability.

mod builds;
mod consume;
mod derive;
mod disk;
mod emit;
mod extremes;
mod failure_records;
mod failures;
mod late;
mod migrations;
mod network;
mod outages;
mod pgbench;
mod processes;
mod quickstart;
mod retention;
mod rolling;
mod schema_versions;
mod shutdown;
mod sql_function;
mod start_up;
mod trouble;
