//! Processes, servers, connections and steps that fail at any moment: what emitters committed is what every group got. `EVENT_BOX_SEED`
//! repeats what is drawn, `EVENT_BOX_CRASH_SECONDS` prolongs the random ones.

mod book;
mod connections;
mod emitter;
mod member;
mod mode;
mod processes;
mod servers;
mod steps;
