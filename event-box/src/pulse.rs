use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sqlx::{PgPool, postgres::PgListener};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    deadline::within,
    failure::chain,
    held::Held,
    mover::Mover,
    poll::{Poll, PollError, poll},
    schema::Schema,
};

/// After a notification that more may follow the poll is dense for this long: what is not announced is found too.
const DENSE_FOR: Duration = Duration::from_millis(12);
const DENSE_INTERVAL: Duration = Duration::from_millis(4);
/// A statement of the poll that takes longer has lost its server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT: Duration = Duration::from_millis(500);

/// What the process knows of the log's server.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// Not reached, or not yet.
    Unknown,
    Live(Arc<Poll>),
    Standby,
}

/// A notification: something was written.
#[derive(Debug, Clone)]
pub(crate) struct Hint {
    pub(crate) partition: Option<i16>,
    /// It stands for one event, and so for one step of the sequence.
    pub(crate) is_of_one: bool,
    /// Others of its process may follow that are not announced.
    pub(crate) more_may_follow: bool,
    topic: String,
}

impl Hint {
    /// Where (a partition, `-` for one event in any, `*` for several), `+` where more may follow, a blank, and the topic or `*`.
    fn parse(payload: &str) -> Self {
        let (place, topic) = payload.split_once(' ').unwrap_or(("*", "*"));
        let marked = place.strip_suffix('+');
        let place = marked.unwrap_or(place);
        let partition = place.parse().ok().filter(|partition| (0..64).contains(partition));
        Self {
            partition,
            is_of_one: place == "-" || partition.is_some(),
            more_may_follow: marked.is_some(),
            topic: topic.to_owned(),
        }
    }

    /// Anything may have been written.
    fn of_anything() -> Self {
        Self::parse("* *")
    }

    pub(crate) fn concerns(&self, topics: &[String]) -> bool {
        self.topic == "*" || topics.contains(&self.topic)
    }
}

/// One poll, one listener and one mover of delayed events for every group of the process on this log, alive while any of them runs.
#[derive(Debug)]
pub(crate) struct Pulse {
    server: watch::Receiver<Server>,
    hints: broadcast::Sender<Hint>,
    interval_nanos: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Pulse {
    fn start(pool: &PgPool, schema: &Schema, interval: Duration) -> Self {
        let (announce, server) = watch::channel(Server::Unknown);
        let (hints, _) = broadcast::channel(1024);
        let interval_nanos = Arc::new(AtomicU64::new(interval.as_nanos() as u64));
        let (woken, lost) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut tasks = JoinSet::new();
        let (own, of, heard, wake, given_up) =
            (pool.clone(), schema.clone(), hints.clone(), woken.clone(), lost.clone());
        let listening = revived(move || listen(own.clone(), of.clone(), heard.clone(), wake.clone(), given_up.clone()));
        let (own, schema, nanos) = (pool.clone(), schema.clone(), interval_nanos.clone());
        let polling = revived(move || {
            let (pool, schema, announce) = (own.clone(), schema.clone(), announce.clone());
            keep_polling(pool, schema, announce, nanos.clone(), woken.clone(), lost.clone())
        });
        let mut closed = pool.close_event();
        tasks.spawn(async move {
            // A pool that is to be closed waits for the poll's connection.
            let _ = closed.do_until(async { tokio::join!(listening, polling) }).await;
        });
        Self { server, hints, interval_nanos, _tasks: tasks }
    }

    pub(crate) fn server(&self) -> watch::Receiver<Server> {
        self.server.clone()
    }

    pub(crate) fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}

/// Starts with the first group that needs it, ends with the last.
#[derive(Debug, Default)]
pub(crate) struct SharedPulse(Mutex<Weak<Pulse>>);

impl SharedPulse {
    /// The shared pulse, polling at least as often as this.
    pub(crate) fn join(&self, pool: &PgPool, schema: &Schema, interval: Duration) -> Arc<Pulse> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pulse = shared.upgrade().unwrap_or_else(|| Arc::new(Pulse::start(pool, schema, interval)));
        *shared = Arc::downgrade(&pulse);
        pulse.interval_nanos.fetch_min(interval.as_nanos() as u64, Ordering::Relaxed);
        pulse
    }
}

/// A panic is ours. Groups would go on without a poll, and delayed events without a mover: what panicked begins anew.
async fn revived<F: Future<Output = ()>>(start: impl Fn() -> F) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        tracing::error!("polling the event log panicked, which is a defect of event-box; it begins anew");
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn keep_polling(
    pool: PgPool,
    schema: Schema,
    announce: watch::Sender<Server>,
    interval_nanos: Arc<AtomicU64>,
    woken: Arc<Notify>,
    lost: Arc<Notify>,
) {
    // So too where it begins anew: what was polled before is worthless.
    announce.send_replace(Server::Unknown);
    let (mut epoch, mut reachable) = (0, true);
    let mut last: Option<Arc<Poll>> = None;
    let mut mover = Mover::new();
    loop {
        // Held from poll to poll; a connection that failed is not asked again.
        let Ok(mut held) = Held::acquire(&pool).await.inspect_err(|error| {
            if std::mem::take(&mut reachable) {
                tracing::warn!(error = chain(error), "the event log cannot be polled, trying on");
            }
        }) else {
            epoch += 1;
            announce.send_replace(Server::Unknown);
            tokio::time::sleep(RECONNECT).await;
            continue;
        };
        let failure = async {
            let connection = held.connection()?;
            let (mut poll_at, mut dense_until) = (Instant::now(), Instant::now());
            loop {
                if Instant::now() >= poll_at {
                    let mut poll = within(STATEMENT_TIMEOUT, poll(connection, &schema, epoch)).await?;
                    if let Some(last) = &last {
                        if poll.last_value < last.last_value {
                            // A crash or a failover that the connection did not show: what was remembered is worthless.
                            epoch += 1;
                            poll.epoch = epoch;
                        }
                        poll = poll.after(last);
                    }
                    let poll = Arc::new(poll);
                    last = Some(poll.clone());
                    if !std::mem::replace(&mut reachable, true) {
                        tracing::info!("the event log is polled again");
                    }
                    announce.send_if_modified(|server| {
                        let changed = !matches!(server, Server::Live(earlier) if *earlier == poll);
                        if changed {
                            *server = Server::Live(poll);
                        }
                        changed
                    });
                    let now = Instant::now();
                    let interval = Duration::from_nanos(interval_nanos.load(Ordering::Relaxed));
                    poll_at = now + if now < dense_until { DENSE_INTERVAL.min(interval) } else { interval };
                }
                if Instant::now() >= mover.next_check {
                    mover.step(connection, &schema).await?;
                }
                let next = poll_at.min(mover.next_check);
                if tokio::time::timeout_at(next, woken.notified()).await.is_ok() {
                    poll_at = Instant::now();
                    dense_until = poll_at + DENSE_FOR;
                }
            }
        };
        let Err::<Infallible, PollError>(failure) = failure.await;
        // A listener never sends, and would not notice that its server is gone.
        lost.notify_one();
        epoch += 1;
        let standby = matches!(failure, PollError::Standby);
        announce.send_replace(if standby { Server::Standby } else { Server::Unknown });
        if std::mem::take(&mut reachable) {
            tracing::warn!(error = chain(&failure), "the event log cannot be polled, trying on");
        }
        drop(held);
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Losing the listener costs nothing but time: the poll finds what was not heard.
async fn listen(pool: PgPool, schema: Schema, hints: broadcast::Sender<Hint>, woken: Arc<Notify>, lost: Arc<Notify>) {
    if schema.is_behind_pooler() {
        // The session that heard would be anybody's.
        return;
    }
    let mut heard = true;
    loop {
        let ended = tokio::select! {
            ended = listen_once(&pool, &schema, &hints, &woken, &mut heard) => ended,
            () = lost.notified() => Ok(()),
        };
        let Err(error) = ended else { continue };
        if std::mem::take(&mut heard) {
            tracing::warn!(error = chain(&error), "notifications cannot be heard, events are found by polling");
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn listen_once(
    pool: &PgPool,
    schema: &Schema,
    hints: &broadcast::Sender<Hint>,
    woken: &Notify,
    heard: &mut bool,
) -> Result<(), sqlx::Error> {
    // A pool of its own: a listener that is dropped asks its server to unlisten first, and would keep its place in the pool for as long as
    // a server that vanished does not answer.
    let own = pool.options().clone().min_connections(0).max_connections(1);
    let own = own.connect_lazy_with(pool.connect_options().as_ref().clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen(schema.name()).await?;
    // What was written meanwhile was not heard.
    let _ = hints.send(Hint::of_anything());
    if !std::mem::replace(heard, true) {
        tracing::info!("notifications are heard again");
    }
    // `None`: the connection was lost, and with it notifications; a new one is made.
    while let Some(notification) = listener.try_recv().await? {
        let hint = Hint::parse(notification.payload());
        if hint.more_may_follow {
            woken.notify_one();
        }
        // No group may be listening just now.
        let _ = hints.send(hint);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_notification_says() {
        let read = |payload| {
            let hint = Hint::parse(payload);
            (hint.partition, hint.is_of_one, hint.more_may_follow, hint.topic)
        };
        assert_eq!(read("17 a topic"), (Some(17), true, false, "a topic".to_owned()));
        assert_eq!(read("17+ orders"), (Some(17), true, true, "orders".to_owned()));
        assert_eq!(read("- orders"), (None, true, false, "orders".to_owned()));
        assert_eq!(read("*+ *"), (None, false, true, "*".to_owned()));
        assert_eq!(read("64 orders").0, None, "there are 64, from 0");
        assert_eq!(read("by hand").3, "hand");
        assert_eq!(read(""), (None, false, false, "*".to_owned()));
    }
}
