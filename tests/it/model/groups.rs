use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Delivery, Detached, Event, Failed, Failure, PullBuilder};
use event_box_tests::{Counted, Seen, Tallied};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Both topics, as one handler takes them.
#[derive(Debug, Serialize, Deserialize, Event)]
enum Either {
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

/// A group, by how it handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Emitting,
    AllOrNothing,
    Runs,
    Concurrent,
    Replayed,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Single, Self::Emitting, Self::AllOrNothing, Self::Runs, Self::Concurrent, Self::Replayed];

    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Emitting => "emitting",
            Self::AllOrNothing => "all_or_nothing",
            Self::Runs => "runs",
            Self::Concurrent => "concurrent",
            Self::Replayed => "replayed",
        }
    }

    /// Every effect is there once.
    pub(super) fn is_exact(self) -> bool {
        !matches!(self, Self::Concurrent | Self::Replayed)
    }
}

/// What handlers think of events, each a few times at most.
pub(super) struct Whims {
    pool: PgPool,
    seen: Mutex<HashMap<(String, String, i64), u32>>,
}

impl Whims {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, seen: Mutex::default() }
    }

    fn of(&self, group: &str, event: &Counted) -> Option<Failure> {
        let times = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let times = seen.entry((group.to_owned(), event.key.clone(), event.n)).or_default();
            *times += 1;
            *times
        };
        if times > 2 || fastrand::u16(..) > 400 {
            return None;
        }
        match fastrand::u8(0..8) {
            0 => Some(Failure::Unavailable("whim".into())),
            1 | 2 => Some(Failure::Snooze(Duration::from_millis(5))),
            3 => panic!("whim"),
            _ => Some(Failure::Retry("whim".into())),
        }
    }
}

type State = &'static Whims;

async fn single(event: Either, cx: &mut Context<'_, State>) -> Result<(), Failure> {
    let event = event.into_counted();
    let whim = cx.state().of(cx.group(), &event);
    Seen::note("m", &event, cx).await?;
    whim.map_or(Ok(()), Err)
}

/// Emits in the delivery's own transaction, under keys of its own.
async fn emitting(event: Either, cx: &mut Context<'_, State>) -> Result<(), Failure> {
    let event = event.into_counted();
    let whim = cx.state().of(cx.group(), &event);
    Seen::note("m", &event, cx).await?;
    if !event.key.starts_with('h') && event.n % 5 == 0 {
        let key = format!("h{}", event.key);
        event_box_tests::emit_next(cx.connection().await?, &key).await.map_err(Failure::Retry)?;
    }
    whim.map_or(Ok(()), Err)
}

async fn run(events: Vec<Delivery<Counted>>, cx: &mut Context<'_, State>) -> Result<Vec<Failed>, Failure> {
    let (mut failed, mut handled) = (Vec::new(), Vec::new());
    for delivery in events {
        match cx.state().of(cx.group(), &delivery.event) {
            Some(failure) => failed.push(delivery.failed(failure)),
            None => handled.push(delivery.event),
        }
    }
    if !failed.is_empty() && fastrand::bool() {
        return Err("whim".into());
    }
    let keys: Vec<_> = handled.iter().map(|event| event.key.clone()).collect();
    let numbers: Vec<_> = handled.iter().map(|event| event.n).collect();
    let insert = "insert into seen (member, grp, key, n)
                  select 'm', $1, key, n from unnest($2::text[], $3::bigint[]) with ordinality as u (key, n, i) order by i";
    sqlx::query(insert).bind(cx.group()).bind(keys).bind(numbers).execute(&mut *cx).await?;
    Ok(failed)
}

async fn tally(event: Tallied, cx: &mut Context<'_, State>) -> Result<(), Failure> {
    let event = Counted { key: event.key, n: event.n };
    let whim = cx.state().of(cx.group(), &event);
    Seen::note("m", &event, cx).await?;
    whim.map_or(Ok(()), Err)
}

async fn detached(event: Either, cx: &mut Detached<'_, State>) -> Result<(), Failure> {
    let event = event.into_counted();
    if let Some(whim) = cx.state().of(cx.group(), &event) {
        return Err(whim);
    }
    let insert = "insert into seen (member, grp, key, n) values ('m', $1, $2, $3)";
    sqlx::query(insert).bind(cx.group()).bind(&event.key).bind(event.n).execute(&cx.state().pool).await?;
    Ok(())
}

/// Runs a group, and stops, cuts off and replaces its consumers, each with other settings.
pub(super) struct Chaos {
    pub(super) kind: Kind,
    pub(super) pool: PgPool,
    pub(super) whims: State,
    pub(super) rng: Rng,
}

impl Chaos {
    fn consumer(&mut self) -> Consumer {
        let (workers, batch) = (self.rng.usize(1..3), [1, 3, 20, 200, 1_000][self.rng.usize(0..5)]);
        let builder = Consumer::builder(&self.pool, self.kind.group()).state(self.whims);
        let backoff = Backoff::fixed(Duration::from_millis(5));
        macro_rules! built {
            ($builder:expr) => {
                $builder.workers(workers).batch_size(batch).backoff(backoff).max_attempts(1_000).retention(None).build()
            };
        }
        let built = match self.kind {
            Kind::Single | Kind::Replayed => built!(builder.on(single)),
            Kind::Emitting => built!(builder.on(emitting)),
            Kind::AllOrNothing => built!(builder.on(single).all_or_nothing()),
            Kind::Runs => built!(builder.on_batch(run).on(tally)),
            Kind::Concurrent => built!(builder.concurrent(6).on(detached)),
        };
        built.expect("a consumer")
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let (token, life) = (CancellationToken::new(), Duration::from_millis(self.rng.u64(300..2_500)));
            let mut running = tokio::spawn(self.consumer().run(token.clone()));
            let stopped = stop.run_until_cancelled(tokio::time::sleep(life)).await.is_none();
            if !stopped && self.rng.u8(..) < 60 {
                // As where its future is dropped in the middle of whatever it does.
                running.abort();
                let _ = (&mut running).await;
            } else {
                token.cancel();
                running.await.expect("no panic").expect("no error");
            }
            if stopped {
                return;
            }
        }
    }
}

/// Pulls in transactions that emit before, take several batches, fail events, and are dropped at times.
pub(super) async fn pull(pool: PgPool, mut rng: Rng, stop: CancellationToken) {
    let builder = PullBuilder::new(&pool, "pull").event::<Counted>().event::<Tallied>();
    let pull =
        builder.backoff(Backoff::fixed(Duration::from_millis(5))).max_attempts(1_000).open().await.expect("a pull");
    while !stop.is_cancelled() {
        let pulled = async {
            let mut tx = pool.begin().await?;
            if rng.u8(..) < 60 {
                event_box_tests::emit_next(&mut tx, "p").await?;
            }
            let mut any = false;
            for _ in 0..rng.usize(1..4) {
                let mut batch = pull.batch(&mut tx, [1, 7, 100, 1_000][rng.usize(0..4)]).await?;
                any |= !batch.is_empty();
                while let Some(event) = batch.next() {
                    if event.attempt() <= 2 && rng.u8(..) < 3 {
                        batch.fail(&mut tx, event, "whim").await?;
                        continue;
                    }
                    let event: Either = event.decode()?;
                    let Counted { key, n } = event.into_counted();
                    sqlx::query("insert into seen (member, grp, key, n) values ('m', 'pull', $1, $2)")
                        .bind(key)
                        .bind(n)
                        .execute(&mut *tx)
                        .await?;
                }
            }
            if rng.u8(..) < 30 {
                tx.rollback().await?;
            } else {
                tx.commit().await?;
            }
            Ok::<_, BoxError>(any)
        };
        if !pulled.await.expect("a pull") {
            let _ = tokio::time::timeout(Duration::from_millis(50), pull.wait()).await;
        }
    }
}
