//! A group of every mode, and emitters of every form, on a log that something happens to.

use std::{collections::BTreeSet, future::Future, sync::Mutex, time::Duration};

use event_box::{
    Backoff, BoxError, Consumer, Context, Delivery, Detached, Event, EventBox, Failure, Outbox, PullBuilder,
};
use event_box_tests::{Counted, Running, Seen, Tallied, assert_each_once_in_order};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const EXACT: [&str; 4] = ["single", "all_or_nothing", "runs", "pull"];
/// A process that was cut off takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Both topics, as one value.
#[derive(Debug, Serialize, Deserialize, Event)]
pub(crate) enum Either {
    Counted(Counted),
    Tallied(Tallied),
}

impl Either {
    fn into_counted(self) -> Counted {
        match self {
            Self::Counted(event) => event,
            Self::Tallied(Tallied { key, n }) => Counted { key, n },
        }
    }
}

async fn single(event: Either, cx: &mut Context<'_, PgPool>) -> Result<(), Failure> {
    Seen::note("m", &event.into_counted(), cx).await?;
    // What it wrote is undone, and its key waits.
    if cx.attempt() == 1 && fastrand::u8(..) < 5 { Err(Failure::Retry("whim".into())) } else { Ok(()) }
}

async fn run(events: Vec<Delivery<Counted>>, cx: &mut Context<'_, PgPool>) -> Result<(), BoxError> {
    for delivery in events {
        Seen::note("m", &delivery.event, cx).await?;
    }
    Ok(())
}

async fn tally(event: Tallied, cx: &mut Context<'_, PgPool>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &Either::Tallied(event).into_counted(), cx).await?)
}

async fn detached(event: Either, cx: &mut Detached<'_, PgPool>) -> Result<(), BoxError> {
    let mut tx = cx.state().begin().await?;
    note(&mut tx, "concurrent", event.into_counted()).await?;
    Ok(tx.commit().await?)
}

async fn note(connection: &mut PgConnection, group: &str, Counted { key, n }: Counted) -> Result<(), sqlx::Error> {
    let insert = "insert into seen (member, grp, key, n) values ('m', $1, $2, $3)";
    sqlx::query(insert).bind(group).bind(key).bind(n).persistent(false).execute(connection).await?;
    Ok(())
}

/// The groups as one process has them.
pub(crate) struct EveryMode {
    running: Vec<Running>,
    stop: CancellationToken,
    pulling: JoinHandle<()>,
}

impl EveryMode {
    pub(crate) fn start(log: &EventBox, max_deaths: u32) -> Self {
        macro_rules! started {
            ($group:literal, $builder:ident => $handlers:expr) => {{
                let $builder = Consumer::builder(log, $group).state(log.pool().clone());
                let backoff = Backoff::fixed(Duration::from_millis(20));
                let built = $handlers.workers(2).backoff(backoff).max_deaths(max_deaths).build();
                Running::start(built.expect("a consumer"))
            }};
        }
        let running = vec![
            started!("single", builder => builder.on(single)),
            started!("all_or_nothing", builder => builder.on(single).all_or_nothing()),
            started!("runs", builder => builder.on_batch(run).on(tally)),
            started!("concurrent", builder => builder.concurrent(4).on(detached)),
        ];
        let stop = CancellationToken::new();
        Self { running, pulling: tokio::spawn(pull(log.clone(), stop.clone())), stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for running in self.running {
            running.stop().await.expect("nothing that would not pass");
        }
        self.pulling.await.expect("no panic");
    }
}

async fn pull(log: EventBox, stop: CancellationToken) {
    let open = || PullBuilder::new(&log, "pull").event::<Counted>().event::<Tallied>().open();
    let pull = until_done(open).await;
    while !stop.is_cancelled() {
        let pulled = async {
            let mut tx = log.pool().begin().await?;
            let batch = pull.batch(&mut tx, 20).await?;
            let any = !batch.is_empty();
            for event in batch {
                let event: Either = event.decode()?;
                note(&mut tx, "pull", event.into_counted()).await?;
            }
            tx.commit().await?;
            Ok::<_, BoxError>(any)
        };
        if !pulled.await.unwrap_or(false) {
            let _ = tokio::time::timeout(Duration::from_millis(100), pull.wait()).await;
        }
    }
}

/// Tries again until it is.
pub(crate) async fn until_done<T, E, F>(mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Debug,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One transaction that emits the next of a key in one of the six forms there are, under a lock on the key's row. Answers with the ids.
/// Needs `create table counters (key text primary key, n bigint not null)`.
pub(crate) async fn emit_somehow(
    pool: &PgPool,
    outbox: &Outbox,
    key: &str,
    form: usize,
) -> Result<Vec<Uuid>, BoxError> {
    let mut tx = pool.begin().await?;
    let by = if form > 2 { 3 } else { 1 };
    let count =
        "insert into counters values ($1, $2) on conflict (key) do update set n = counters.n + $2 returning n - $2 + 1";
    let first = sqlx::query_scalar(count).bind(key).bind(by).persistent(false).fetch_one(&mut *tx).await?;
    let counted = |n| Counted { key: key.to_owned(), n };
    let events: Vec<_> = (first..first + 3).map(counted).collect();
    let ids = match form {
        0 => vec![outbox.emit(&mut *tx, &counted(first)).header("form", "0").await?],
        1 => vec![outbox.clone().notify(false).emit(&mut *tx, &counted(first)).await?],
        2 => {
            let sql = "select event_box.emit('test.counted', json_build_object('key', $1::text, 'n', $2::bigint), $1)";
            vec![sqlx::query_scalar(sql).bind(key).bind(first).persistent(false).fetch_one(&mut *tx).await?]
        }
        3 => outbox.emit_all(&mut *tx, &events).await?,
        4 => {
            let other = |event: Counted| match event.n % 2 {
                0 => Either::Counted(event),
                _ => Either::Tallied(Tallied { key: event.key, n: event.n }),
            };
            outbox.emit_all(&mut *tx, &events.into_iter().map(other).collect::<Vec<_>>()).await?
        }
        _ => outbox.copy(&mut tx, &events).await?,
    };
    tx.commit().await?;
    Ok(ids)
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<BTreeSet<Uuid>>);

impl Acknowledged {
    /// Emits in all forms, under a few keys, until it is enough. Where the answer was lost, the counters tell what is in the database.
    pub(crate) async fn emit(&self, log: &EventBox, enough: CancellationToken) {
        let outbox = log.outbox();
        while !enough.is_cancelled() {
            let (key, form) = (format!("k{}", fastrand::u8(0..6)), fastrand::usize(..6));
            if let Ok(ids) = emit_somehow(log.pool(), &outbox, &key, form).await {
                self.0.lock().expect("no panic").extend(ids);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..30))).await;
        }
    }

    /// How many events that were.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    /// Every one of them is in the log.
    pub(crate) async fn assert_logged(&self, pool: &PgPool) {
        let ids: Vec<_> = self.0.lock().expect("no panic").iter().copied().collect();
        let missing = "select count(*) from unnest($1::uuid[]) as a (id) where not exists (select from event_box.events as e where e.id = a.id)";
        let missing: i64 = sqlx::query_scalar(missing).bind(&ids).fetch_one(pool).await.expect("a count");
        assert_eq!(missing, 0, "of {} that were acknowledged", ids.len());
    }
}

/// Waits until every group has been given all that was committed.
pub(crate) async fn wait_until_all_is_seen(pool: &PgPool) {
    let missing =
        "select string_agg(grp, ', ') from (values ('single'), ('all_or_nothing'), ('runs'), ('concurrent'), ('pull')) as g (grp)
         where (select count(distinct (key, n)) from seen as s where s.grp = g.grp) < (select sum(n) from counters)";
    let (mut seen, mut deadline) = (0, Instant::now() + PATIENCE);
    loop {
        let missing: Option<String> = sqlx::query_scalar(missing).fetch_one(pool).await.expect("groups");
        let Some(groups) = missing else { return };
        let now: i64 = sqlx::query_scalar("select count(*) from seen").fetch_one(pool).await.expect("a count");
        if now > seen {
            (seen, deadline) = (now, Instant::now() + PATIENCE);
        }
        assert!(Instant::now() < deadline, "{groups} have not been given all");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// None lost, none invented, none before its time; and none twice where the effects are in the database.
pub(crate) async fn assert_all_went_well(pool: &PgPool) {
    for group in EXACT {
        assert_each_once_in_order(pool, group).await;
    }
    let wrong: i64 = sqlx::query_scalar(
        "with firsts as (select key, n, min(at) as at from seen where grp = 'concurrent' group by key, n),
              places as (select key, n, row_number() over (partition by key order by at) as place from firsts)
         select (select count(*) from places where n <> place)
              + (select count(*) from counters as c where n <> (select count(*) from places as p where p.key = c.key))",
    )
    .fetch_one(pool)
    .await
    .expect("a count");
    assert_eq!(wrong, 0, "concurrent");
    let dead: i64 = sqlx::query_scalar("select count(*) from event_box.parked where dead_at is not null")
        .fetch_one(pool)
        .await
        .expect("a count");
    assert_eq!(dead, 0, "no event is to blame");
}
