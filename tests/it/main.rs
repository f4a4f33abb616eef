//! Integration tests, a module a capability.

mod builds;
mod consume;
mod derive;
mod emit;
mod extremes;
mod failures;
mod late;
mod migrations;
mod outages;
mod pgbench;
mod processes;
mod quickstart;
mod rolling;
mod retention;
mod shutdown;
mod sql_function;
mod start_up;
mod trouble;
