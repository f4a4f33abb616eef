use std::{io, net::TcpListener, thread, time::Duration};

use anyhow::Context;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{runtime::Runtime, time::Instant};

use crate::{forwarder::Sink, orders::App, service, signal};

/// Longer than what has begun may take, and shorter than the orchestrator's patience, which with Kubernetes is 30 s.
const GRACE: Duration = Duration::from_secs(20);

/// The service as a process of its own, as far as that goes without one: a thread with a runtime and a pool of its own, which take with them
/// whatever is still running when the service has ended.
#[derive(Debug)]
pub(crate) struct Process(thread::JoinHandle<anyhow::Result<()>>);

impl Process {
    /// Starts it on the database of this pool; of the app it gets everything else.
    pub(crate) fn start(app: &App, listener: TcpListener, sink: &Sink) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (app, sink, runtime) = (app.clone(), sink.clone(), Runtime::new()?);
        let main = move || {
            // What `main` of such a service does.
            runtime.block_on(async {
                let told_to_stop = event_box::stop_signal()?;
                let options = (*app.pool.connect_options()).clone();
                let pool: PgPool = PgPoolOptions::new().max_connections(20).connect_with(options).await?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                service::run(App { pool, ..app }, listener, sink, told_to_stop, GRACE).await
            })
        };
        Ok(Self(thread::spawn(main)))
    }

    /// Sends SIGTERM, as an orchestrator does, and waits for the end; answers how long that took.
    pub(crate) async fn stop(self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        signal::terminate_ourselves()?;
        let ended = tokio::task::spawn_blocking(|| self.0.join()).await?;
        ended
            .map_err(|_| anyhow::anyhow!("the service panicked"))?
            .context("the service did not stop in good order")?;
        Ok(began.elapsed())
    }
}
