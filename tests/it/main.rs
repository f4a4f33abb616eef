//! Integration tests, a module a capability.

mod adopt;
mod builds;
mod consume;
mod derive;
mod emit;
mod erase;
mod extremes;
mod failures;
mod forward;
mod late;
mod migrations;
mod pgbench;
mod processes;
mod quickstart;
mod replay;
mod retention;
mod shutdown;
mod sql_function;
mod start_up;
mod trouble;
