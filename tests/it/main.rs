//! Integration tests, a module a capability.

mod all_or_nothing;
mod builds;
mod consume;
mod dead_letter_policy;
mod dead_letters;
mod deaths;
mod derive;
mod emit;
mod extremes;
mod failures;
mod groups;
mod health;
mod late;
mod migrations;
mod outages;
mod pgbench;
mod processes;
mod pull;
mod quickstart;
mod retention;
mod shutdown;
mod sql_function;
mod start_up;
mod testing;
mod trouble;
