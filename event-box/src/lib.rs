//! event-box

mod backoff;
mod batch;
mod check;
mod claim;
mod consumer;
mod consumer_builder;
mod context;
mod copy;
mod cursor;
mod deadline;
mod emit;
mod error;
mod event;
mod event_box;
mod failure;
mod group;
mod handler;
mod headers;
mod look;
mod migrate;
mod notify;
mod outbox;
mod parked;
mod partition_key;
#[cfg(test)]
mod plans;
mod poll;
mod pulse;
mod read;
mod ready;
mod record;
mod retention;
mod router;
mod run_error;
mod savepoint;
mod scheduler;
mod schema;
mod signal;
mod snapshot;
#[cfg(test)]
mod test_log;
mod types;
mod worker;

pub use crate::{
    backoff::Backoff,
    check::LogError,
    consumer::Consumer,
    consumer_builder::{BuildError, ConsumerBuilder, Empty, Routed},
    context::Context,
    emit::Emit,
    error::{BoxError, EmitError},
    event::{DecodeError, Event},
    event_box::EventBox,
    failure::{Failure, OrReject, OrUnavailable},
    group::remove_group,
    handler::{Handle, Handler, Outcome},
    headers::Headers,
    migrate::migrate,
    outbox::Outbox,
    partition_key::PartitionKey,
    retention::{Pruned, prune},
    run_error::RunError,
    schema::{Schema, SchemaError},
};
/// Implements [`trait@Event`].
pub use event_box_derive::Event;

/// What the derive's expansion calls; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use serde_json;

    pub use crate::event::{from_json, to_json};
}
