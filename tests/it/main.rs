//! Integration tests, a module a capability.

mod all_or_nothing;
mod builds;
mod consume;
mod dead_letter_policy;
mod deaths;
mod derive;
mod emit;
mod evolution;
mod extremes;
mod failures;
mod late;
mod migrations;
mod outages;
mod pgbench;
mod processes;
mod quickstart;
mod retention;
mod shutdown;
mod sql_function;
mod start_up;
mod trouble;
