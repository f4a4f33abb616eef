//! event-box beside what PostgreSQL itself can do through the same client: ratios of paired, interleaved repetitions, each with the line
//! that it is to reach. `cargo xtask bench` runs it; `bench/README.md` says what is measured, and how.
//!
//! A library, so that the comparison with other crates (`bench/peers`, a workspace of its own) is measured by the same code.

pub mod arguments;
pub mod child;
pub mod children;
pub mod comparison;
pub mod counter;
pub mod event;
pub mod figure;
pub mod latency;
pub mod machine;
pub mod proc;
pub mod raw;
pub mod results;
pub mod stage;
pub mod statements;
pub mod suites;
pub mod turns;
pub mod wire;
