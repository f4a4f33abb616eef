//! Integration tests, a module a capability.

mod builds;
mod consume;
mod dead_letters;
mod derive;
mod emit;
mod extremes;
mod failures;
mod groups;
mod health;
mod late;
mod migrations;
mod pgbench;
mod processes;
mod quickstart;
mod retention;
mod shutdown;
mod sql_function;
mod start_up;
mod trouble;
