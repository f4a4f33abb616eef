//! Topics, keys, headers and payloads of every shape go through byte for byte, or are refused by name. What is drawn is drawn from a fixed
//! seed, or from that in `EVENT_BOX_SEED`; `EVENT_BOX_FULL=1` draws more.

mod decoding;
mod documents;
mod events;
mod poison;
mod refused;
mod round_trip;
mod schema_names;

use event_box_tests::full;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};

/// So many cases, or twenty times as many. Failures are not kept in files: what once failed becomes a case of a table.
fn config(cases: u32) -> Config {
    let seed = std::env::var("EVENT_BOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x0e7e_47b0);
    let cases = if full() { 20 * cases } else { cases };
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..Config::default() }
}

/// So many values, for tests that ask a server about all of them at once.
fn drawn<S: Strategy>(cases: u32, strategy: S) -> Vec<S::Value> {
    let config = config(cases);
    let cases = config.cases;
    let mut runner = TestRunner::new(config);
    (0..cases).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}
