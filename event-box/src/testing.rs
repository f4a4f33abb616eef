//! Helpers for the tests of applications that emit and handle events: feature `testing`, for dev-dependencies.
//!
//! ```toml
//! [dev-dependencies]
//! event-box = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Assertions read what an executor sees: in a transaction that is still open they see its own events, so that a test may roll back at its
//! end. [`drain`] needs events that are committed: a consumer delivers in transactions of its own, which see nothing of others' that are
//! open. Delayed events are asserted by [`assert_delayed`], and drained in the order of their due times as if these had come. A log in another schema is a [`Log`], with the same assertions. All of it works under `#[sqlx::test]`, which gives each test a database of its own:
//!
//! ```no_run
//! # use event_box::{BoxError, Consumer, Context, Event, Outbox, testing};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize, Event)]
//! # #[event(topic = "orders.placed", partition_key = "order_id")]
//! # struct OrderPlaced { order_id: i64, total_cents: i64 }
//! # async fn place_order(connection: &mut sqlx::PgConnection, order_id: i64, total_cents: i64) -> Result<(), BoxError> { Ok(()) }
//! # async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), BoxError> { Ok(()) }
//! // #[sqlx::test]
//! async fn an_order_is_told_and_reserves_stock(pool: sqlx::PgPool) -> Result<(), BoxError> {
//!     event_box::migrate(&pool).await?;
//!     let mut tx = pool.begin().await?;
//!     place_order(&mut tx, 7, 995).await?;
//!     testing::assert_emitted(&mut *tx, &OrderPlaced { order_id: 7, total_cents: 995 }).await;
//!     tx.commit().await?;
//!
//!     let consumer = Consumer::builder(&pool, "warehouse").on(reserve_stock).build()?;
//!     let drained = testing::drain(&consumer).await?;
//!     assert_eq!((drained.handled, drained.dead_letters.len()), (1, 0));
//!     Ok(())
//! }
//! ```

mod assert;
mod drain;
mod log;

pub use self::{
    assert::{assert_delayed, assert_emitted, assert_emitted_matching, assert_not_emitted, delayed, emitted},
    drain::{Drained, drain},
    log::Log,
};
