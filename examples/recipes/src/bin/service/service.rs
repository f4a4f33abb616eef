use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use event_box::{Consumer, EventBox};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    forwarder::{Forwarder, Sink},
    orders::{self, App},
};

/// Runs the web server, the consumer and the relay until told to stop, or until one of them ends; then stops all three at once. They need
/// no order: what the last requests emit is handled and published by whoever runs next.
///
/// # Errors
/// The first of any of the three, and where something is still running after the grace period. That is cut off, and what it did rolled back;
/// requests run in tasks of the web server's own, and are cut off by the end of the process: do not wait for the pool to close then.
pub(crate) async fn run(
    app: App,
    listener: TcpListener,
    sink: Sink,
    told_to_stop: impl Future<Output = ()>,
    grace: Duration,
) -> anyhow::Result<()> {
    let log = EventBox::new(app.pool.clone());
    let warehouse = Consumer::builder(&log, "warehouse").state(app.clone()).on(orders::reserve);
    // So that the consumer itself rolls back, and says so, what takes too long.
    let warehouse = warehouse.shutdown_timeout(grace.mul_f32(0.8)).build()?;
    let relay = Forwarder::open(&log, "to-the-broker", sink).await?;

    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    let (closing, consuming, relaying) = (stop.clone(), stop.clone(), stop.clone());
    parts.spawn(async move {
        let served = axum::serve(listener, orders::router(app)).with_graceful_shutdown(closing.cancelled_owned());
        served.await.context("the web server failed")
    });
    parts.spawn(async move { warehouse.run(consuming).await.context("the consumer failed") });
    parts.spawn(async move { relay.run(relaying).await.context("the relay failed") });

    let first = tokio::select! {
        () = told_to_stop => Ok(()),
        Some(part) = parts.join_next() => ended(part).and_then(|()| Err(anyhow!("a part of the service ended unasked"))),
    };
    stop.cancel();
    let others = tokio::time::timeout(grace, async {
        let mut all = Ok(());
        while let Some(part) = parts.join_next().await {
            all = all.and(ended(part));
        }
        all
    });
    let others = others.await;
    parts.shutdown().await;
    match others {
        Ok(others) => first.and(others),
        Err(_) => first.and_then(|()| bail!("still running {grace:?} after it was told to stop: cut off")),
    }
}

/// A part that panicked has failed like any other.
fn ended(part: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    part.context("a part of the service panicked")?
}
