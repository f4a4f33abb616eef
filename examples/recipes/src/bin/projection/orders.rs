use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box::{Event, Outbox};
use recipes::until;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: Uuid,
    pub(crate) sku: String,
    pub(crate) quantity: i32,
    pub(crate) cents: i64,
}

/// All of them in one transaction.
pub(crate) async fn place(pool: &PgPool, orders: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
    let order = |n: usize| OrderPlaced {
        order_id: Uuid::now_v7(),
        sku: ["teapot", "kettle", "cup", "saucer"][n % 4].to_owned(),
        quantity: 1 + (n % 3) as i32,
        cents: 100 + (n % 900) as i64,
    };
    let placed: Vec<_> = orders.into_iter().map(order).collect();
    let mut tx = pool.begin().await?;
    for order in &placed {
        sqlx::query("insert into orders (id, sku, quantity, cents) values ($1, $2, $3, $4)")
            .bind(order.order_id)
            .bind(&order.sku)
            .bind(order.quantity)
            .bind(order.cents)
            .execute(&mut *tx)
            .await?;
    }
    Outbox::new().emit_all(&mut *tx, &placed).await?;
    Ok(tx.commit().await?)
}

/// Three writers of orders and a reader of the projection, in the background.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: CancellationToken,
    placed: Arc<AtomicUsize>,
    tasks: JoinSet<anyhow::Result<Readings>>,
}

/// What the reader saw.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    pub(crate) taken: usize,
    pub(crate) went_back: usize,
}

impl Traffic {
    pub(crate) fn start(pool: &PgPool) -> Self {
        let mut traffic = Self { stop: CancellationToken::new(), placed: Arc::default(), tasks: JoinSet::new() };
        for _ in 0..3 {
            traffic.tasks.spawn(write(pool.clone(), traffic.placed.clone(), traffic.stop.clone()));
        }
        traffic.tasks.spawn(read(pool.clone(), traffic.stop.clone()));
        traffic
    }

    pub(crate) fn placed(&self) -> usize {
        self.placed.load(Ordering::Relaxed)
    }

    /// Waits until so many more orders were placed.
    pub(crate) async fn more(&self, orders: usize) -> anyhow::Result<()> {
        let enough = self.placed() + orders;
        until("more orders were placed", async || Ok(self.placed() >= enough)).await
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<Readings> {
        self.stop.cancel();
        let mut all = Readings::default();
        while let Some(ended) = self.tasks.join_next().await {
            let readings = ended??;
            all = Readings { taken: all.taken + readings.taken, went_back: all.went_back + readings.went_back };
        }
        Ok(all)
    }
}

async fn write(pool: PgPool, placed: Arc<AtomicUsize>, stop: CancellationToken) -> anyhow::Result<Readings> {
    for n in 0.. {
        if stop.is_cancelled() {
            break;
        }
        place(&pool, [n]).await?;
        placed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Readings::default())
}

async fn read(pool: PgPool, stop: CancellationToken) -> anyhow::Result<Readings> {
    let (mut readings, mut last) = (Readings::default(), (0, 0));
    while !stop.is_cancelled() {
        let seen: (i64, i64) =
            sqlx::query_as("select coalesce(sum(orders), 0)::bigint, coalesce(sum(cents), 0)::bigint from revenue")
                .fetch_one(&pool)
                .await?;
        readings.taken += 1;
        readings.went_back += usize::from(seen.0 < last.0 || seen.1 < last.1);
        last = seen;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(readings)
}
