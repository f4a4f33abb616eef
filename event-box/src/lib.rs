//! A transactional outbox for Rust services on PostgreSQL: a service changes its data and records what happened in one transaction;
//! event-box hands what was recorded to handlers, in order per key, and never loses or invents an event.
//!
//! The outbox is a log, not a queue. Events are appended once and never updated; each consumer group holds a small cursor a partition, and
//! claiming it with `for update skip locked` is the whole of the concurrency control.
//!
//! # The smallest program
//!
//! ```no_run
//! use event_box::{Consumer, Context, Event, Outbox};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(topic = "orders.placed", partition_key = "order_id")]
//! struct OrderPlaced {
//!     order_id: i64,
//!     total_cents: i64,
//! }
//!
//! async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
//!     sqlx::query("insert into reservations (order_id) values ($1)").bind(event.order_id).execute(cx).await?;
//!     Ok(())
//! }
//!
//! # async fn program() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = sqlx::PgPool::connect("postgres://localhost/shop").await?;
//! event_box::migrate(&pool).await?;
//!
//! let mut tx = pool.begin().await?;
//! sqlx::query("insert into orders (id, total_cents) values (7, 995)").execute(&mut *tx).await?;
//! Outbox::new().emit(&mut *tx, &OrderPlaced { order_id: 7, total_cents: 995 }).await?;
//! tx.commit().await?;
//!
//! Consumer::builder(pool, "warehouse").on(reserve_stock).build()?.run_until_signal().await?;
//! # Ok(()) }
//! ```
//!
//! # Emitting
//!
//! [`Outbox::emit`] works on any executor: a pool, `&mut PgConnection`, `&mut *tx`. [`Outbox::emit_all`] writes many events in one statement,
//! [`Outbox::copy`] the most by COPY. [`Emit`] takes an id, headers and another key. From SQL: `select event_box.emit(topic, payload, key)`.
//!
//! ```no_run
//! # use event_box::{Event, Outbox};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, Event)]
//! # #[event(topic = "orders.placed", partition_key = "order_id")]
//! # struct OrderPlaced { order_id: i64 }
//! # async fn emit(tx: &mut sqlx::PgConnection) -> Result<(), event_box::EmitError> {
//! let outbox = Outbox::new();
//! outbox.emit(&mut *tx, &OrderPlaced { order_id: 7 }).header("tenant", "acme").await?;
//! let many: Vec<_> = (1..=1_000).map(|order_id| OrderPlaced { order_id }).collect();
//! outbox.emit_all(&mut *tx, &many).await?;
//! # Ok(()) }
//! ```
//!
//! # Delaying
//!
//! [`Emit::delay`] and [`Emit::due_at`] hold an event back; whatever consumer runs then moves it into the log, within a second, and exactly once.
//! It is ordered by when it became due, and until then [`Outbox::cancel`] takes it back.
//!
//! ```no_run
//! # use event_box::{BoxError, Event, Outbox};
//! # use serde::{Deserialize, Serialize};
//! # use std::time::Duration;
//! # #[derive(Serialize, Deserialize, Event)]
//! # #[event(topic = "payments.overdue", partition_key = "order_id")]
//! # struct PaymentOverdue { order_id: i64 }
//! # async fn place_and_pay(tx: &mut sqlx::PgConnection) -> Result<(), BoxError> {
//! let outbox = Outbox::new();
//! let three_days = Duration::from_secs(3 * 24 * 60 * 60);
//! let id = outbox.emit(&mut *tx, &PaymentOverdue { order_id: 7 }).delay(three_days).await?;
//! let cancellation = outbox.cancel(&mut *tx, id).await?; // when it is paid
//! # let _ = cancellation; Ok(()) }
//! ```
//!
//! # Handling
//!
//! [`Consumer::builder`] takes functions and closures by [`on`](ConsumerBuilder::on) and structs by [`handle`](ConsumerBuilder::handle).
//! [`Context`] is an executor of the delivery's own transaction: what a handler writes through it commits together with the group's cursor.
//! A payload that changes gets a version, and several events one handler: see the [derive](derive@Event).
//!
//! Handlers that write many rows at once take runs of events ([`on_batch`](ConsumerBuilder::on_batch)), those that wait for others run many
//! at once, in no transaction and at least once ([`concurrent`](ConsumerBuilder::concurrent)). [`Middleware`] wraps every delivery of a group:
//! logging, metrics, authorisation, tenancy.
//!
//! ```no_run
//! # use event_box::{BoxError, BuildError, Consumer, Context, Delivery, Detached, Event};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, Event)]
//! # #[event(topic = "orders.placed", partition_key = "order_id")]
//! # struct OrderPlaced { order_id: i64 }
//! # #[derive(Clone)] struct Mailer;
//! # impl Mailer { async fn send(&self, key: uuid::Uuid, order: i64) -> Result<(), BoxError> { Ok(()) } }
//! async fn index(orders: Vec<Delivery<OrderPlaced>>, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
//!     let ids: Vec<_> = orders.iter().map(|order| order.event.order_id).collect();
//!     sqlx::query("insert into order_index select * from unnest($1::bigint[])").bind(ids).execute(cx).await?;
//!     Ok(())
//! }
//!
//! async fn confirm(event: OrderPlaced, cx: &mut Detached<'_, Mailer>) -> Result<(), BoxError> {
//!     cx.state().send(cx.id(), event.order_id).await
//! }
//!
//! # fn build(pool: sqlx::PgPool, mailer: Mailer) -> Result<(Consumer, Consumer), BuildError> {
//! let indexing = Consumer::builder(&pool, "index").on_batch(index).build()?;
//! let mailing = Consumer::builder(&pool, "mail").state(mailer).concurrent(64).on(confirm).build()?;
//! # Ok((indexing, mailing))
//! # }
//! ```
//!
//! # Failing
//!
//! A handler that fails says by [`Failure`] whether its event is tried again; any other error means that it is. Later events of its key wait
//! for it, everything else goes on. After the last attempt it is a dead letter.
//!
//! ```no_run
//! # use event_box::{Backoff, BuildError, Consumer, Context, DeadLetter, Event, Failure, OrReject, OrUnavailable};
//! # use serde::{Deserialize, Serialize};
//! # use std::time::Duration;
//! # #[derive(Serialize, Deserialize, Event)]
//! # #[event(topic = "mail.requested", partition_key = "to")]
//! # struct MailRequested { to: String }
//! # struct Address;
//! # impl std::str::FromStr for Address { type Err = std::fmt::Error; fn from_str(_: &str) -> Result<Self, Self::Err> { Ok(Self) } }
//! # async fn send(_: Address) -> Result<(), std::io::Error> { Ok(()) }
//! async fn send_mail(event: MailRequested, _: &mut Context<'_>) -> Result<(), Failure> {
//!     let address = event.to.parse::<Address>().or_reject()?; // trying again will not mend it
//!     send(address).await.or_unavailable() // the server is down: held against no event
//! }
//!
//! # fn build(pool: sqlx::PgPool) -> Result<Consumer, BuildError> {
//! Consumer::builder(pool, "mail")
//!     .on(send_mail)
//!     .max_attempts(10)
//!     .backoff(Backoff::exponential(Duration::from_secs(5), 2.0, Duration::from_secs(3600)))
//!     .on_dead_letter(async |letter: DeadLetter| eprintln!("given up: {letter:?}"))
//!     .build()
//! # }
//! ```
//!
//! # Running it
//!
//! [`Consumer::run`] takes a token, [`Consumer::run_until_signal`] waits for SIGINT or SIGTERM, and [`stop_signal`] does for
//! processes that do more than consume. Groups of one process share an [`EventBox`] handle. [`prune`] and the consumers' [`retention`](ConsumerBuilder::retention) remove what everybody has read.
//!
//! # Operating it
//!
//! [`EventBox::group`] gives whoever operates a group its dead letters, its health, and what else there is to do to it; each leaves a record
//! of who did it. A [`ConsumerGroup`] is moved back and forth in the log while it runs ([`replay_from`](ConsumerGroup::replay_from),
//! [`forward_to_now`](ConsumerGroup::forward_to_now)), [`LoggedEvent::erase`] erases a person's data, and [`adopt`] takes over a log that was
//! dumped and restored.
//!
//! ```no_run
//! # async fn operate(pool: sqlx::PgPool) -> Result<(), event_box::GroupError> {
//! use event_box::{EventBox, Selection};
//!
//! let group = EventBox::new(pool).group("mail").by("alice");
//! let health = group.health().await?;
//! println!("{} events behind, {} dead", health.pending(), health.dead);
//! let requeued = group.requeue(Selection::Key("a@example.org".to_owned())).await?;
//! println!("{} tried again", requeued.events);
//! # Ok(()) }
//! ```
//!
//! # Pulling
//!
//! [`Pull`] hands out a group's events one or a batch at a time in a transaction of the caller's: commit it and they are delivered, drop it
//! and they come again.
//!
//! # Recipes
//!
//! Whole programs in the repository, explained in [docs/recipes.md](https://github.com/event-box/event-box/blob/main/docs/recipes.md): a saga, an
//! idempotent external call, a projection that is rebuilt and swapped, fan-in of two topics, a service with graceful shutdown.
//!
//! # Tracing
//!
//! Emits and deliveries are `tracing` spans, target `event_box::trace`, with names and fields by OpenTelemetry's conventions for messaging:
//! `emit orders.placed`, `process orders.placed`. With the feature `opentelemetry` an event carries the W3C trace context of its emit in the headers
//! `traceparent` and `tracestate`, and its deliveries continue that trace: one trace leads from the HTTP request to the handler, and on
//! to the handlers of what that emits. A `traceparent` that the application sets wins. Every span and field is listed in
//! [docs/telemetry.md](https://github.com/event-box/event-box/blob/main/docs/telemetry.md).
//!
//! ```no_run
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
//!
//! // With an exporter of yours, such as opentelemetry-otlp's.
//! let provider = SdkTracerProvider::builder().build();
//! let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("orders"));
//! tracing_subscriber::registry().with(layer).init();
//! ```
//!
//! # Several logs
//!
//! A log lives in the schema `event_box`, or in another that is named at run time: [`EventBox::in_schema`], [`Outbox::schema`].
//!
//! # Testing
//!
//! Feature `testing`: assertions on what was emitted, and a drain that waits for no backoff and no delay.
//!
//! A `Uuid` field in an event needs uuid's feature `serde`, as for any type with serde's derives.

mod adopt;
mod attempt;
mod backoff;
mod batch;
mod batch_route;
mod care;
mod chain;
mod check;
mod claim;
mod collector;
mod consumer;
mod consumer_builder;
mod consumer_group;
mod context;
mod copy;
mod cursor;
mod deadline;
mod delayed;
mod deliver;
mod delivery;
mod derived;
mod detached;
mod due;
mod emit;
mod erase;
mod error;
mod event;
mod event_box;
mod event_info;
mod expiry;
mod failed;
mod failpoint;
#[cfg(feature = "_failpoints")]
#[doc(hidden)]
pub mod failpoints;
mod failure;
mod forward;
mod group;
mod group_info;
mod group_mode;
mod guard;
mod handler;
mod headers;
mod health;
mod held;
mod intervention;
mod intervention_record;
mod look;
mod middleware;
mod migrate;
mod mode;
mod mover;
mod mutation;
mod notify;
mod outage;
mod outbox;
mod pace;
mod parked;
mod parked_event;
mod parked_filter;
mod parked_state;
mod partition_key;
mod pause;
#[cfg(test)]
mod plans;
mod policy;
mod poll;
mod process;
mod progress;
mod pull;
mod pull_builder;
mod pull_error;
mod pulled;
mod pulse;
mod read;
mod ready;
mod record;
mod replay;
mod report;
mod requeue;
mod retention;
mod round;
mod router;
mod run;
mod run_error;
mod savepoint;
mod scheduler;
mod schema;
mod selection;
mod settle;
mod signal;
mod skip;
mod slots;
mod snapshot;
mod start;
mod subscription;
mod sweep;
#[cfg(test)]
mod test_log;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod trouble;
mod types;
mod upkeep;
mod verdict;
mod work;
mod worker;

pub use crate::{
    adopt::{Adopted, adopt},
    backoff::Backoff,
    check::LogError,
    consumer::Consumer,
    consumer_builder::{BuildError, ConsumerBuilder, Empty, Routed, WithoutHandlers},
    consumer_group::{ConsumerGroup, GroupError},
    context::Context,
    delayed::{Cancellation, Delayed},
    delivery::Delivery,
    detached::Detached,
    emit::{Emit, EmitThrough},
    erase::{Erasure, LoggedEvent},
    error::{BoxError, EmitError},
    event::{DecodeError, Event},
    event_box::EventBox,
    event_info::EventInfo,
    failed::Failed,
    failure::{Failure, OrReject, OrUnavailable},
    group_info::GroupInfo,
    group_mode::{Concurrent, GroupMode, Transactional},
    handler::{BatchAnswer, Handle, Handler, Outcome},
    headers::Headers,
    health::{GroupHealth, Holder, PartitionHealth},
    intervention_record::InterventionRecord,
    middleware::{Middleware, Next},
    migrate::migrate,
    mode::Mode,
    outbox::Outbox,
    parked_event::ParkedEvent,
    parked_filter::ParkedFilter,
    parked_state::{ParkedState, ParkedStateError},
    partition_key::PartitionKey,
    pull::Pull,
    pull_builder::PullBuilder,
    pull_error::PullError,
    pulled::{PulledBatch, PulledEvent},
    replay::Replayed,
    report::DeadLetter,
    requeue::Requeued,
    retention::{Pruned, prune},
    run_error::RunError,
    schema::{Schema, SchemaError},
    selection::Selection,
    signal::stop_signal,
};
/// Implements [`trait@Event`].
pub use event_box_derive::Event;

/// What the derive's expansion calls; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use serde_json;

    pub use crate::derived::*;
    #[cfg(feature = "_mutations")]
    pub use crate::mutation::ALL as MUTATIONS;
}
