use std::sync::Arc;

use clap::ValueEnum;
use event_box::{BoxError, Consumer, Context, Outbox};
use sqlx::{Connection, PgPool, postgres::PgListener};

use super::{Moments, report};
use crate::{event::OrderPlaced, raw, stage::Running};

/// What is between the emitter and the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// event-box with its defaults.
    EventBox,
    /// NOTIFY in the inserting transaction, and a read by key on wake-up.
    Raw,
}

impl Side {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::EventBox => "event-box",
            Self::Raw => "raw",
        }
    }
}

/// One event, committed.
///
/// # Errors
/// Where the server refuses.
pub async fn emit(pool: &PgPool, side: Side, event: i64) -> anyhow::Result<()> {
    let event = OrderPlaced::new(event);
    let mut connection = pool.acquire().await?;
    let mut tx = connection.begin().await?;
    match side {
        Side::EventBox => {
            Outbox::new().emit(&mut *tx, &event).await?;
        }
        Side::Raw => {
            raw::insert(&mut tx, &event).await?;
            sqlx::query("select pg_notify('raw', '')").execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// In the consuming child: handles events 0 to `events`.
///
/// # Errors
/// Where the server refuses.
pub async fn consume(pool: &PgPool, side: Side, events: usize) -> anyhow::Result<()> {
    let moments = Arc::new(Moments::new(events));
    match side {
        Side::EventBox => {
            let running = Running::start(consumer(pool, &moments)?);
            report(&moments).await?;
            running.stop().await
        }
        Side::Raw => {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen("raw").await?;
            let position = sqlx::query_scalar("select coalesce(max(id), 0) from raw").fetch_one(pool).await?;
            let listening = tokio::spawn(listen(listener, position, pool.clone(), moments.clone()));
            report(&moments).await?;
            listening.abort();
            Ok(())
        }
    }
}

fn consumer(pool: &PgPool, moments: &Arc<Moments>) -> anyhow::Result<Consumer> {
    let consumer = Consumer::builder(pool, "latency")
        .state(moments.clone())
        .on(async |event: OrderPlaced, cx: &mut Context<'_, Arc<Moments>>| -> Result<(), BoxError> {
            cx.state().note(event.order_id);
            Ok(())
        })
        .build()?;
    Ok(consumer)
}

/// The emitter's commits come in the order of their ids, as one connection makes them all.
async fn listen(
    mut listener: PgListener,
    mut position: i64,
    pool: PgPool,
    moments: Arc<Moments>,
) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    loop {
        listener.recv().await?;
        let page: Vec<(i64, String, String, String)> =
            sqlx::query_as("select id, topic, key, payload::text from raw where id > $1 order by id limit 1000")
                .bind(position)
                .fetch_all(&mut *connection)
                .await?;
        for (id, _, _, payload) in page {
            position = id;
            moments.note(serde_json::from_str::<OrderPlaced>(&payload)?.order_id);
        }
    }
}
