use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_box::{Backoff, BuildError, Consumer, Context, Delivery, Detached, EventBox, Failed, Failure};
use fastrand::Rng;
use sqlx::PgPool;

use super::events::{Any, Loose};
use crate::{Counted, Seen, Tallied};

/// A group, by how it handles and what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Emitting,
    AllOrNothing,
    Runs,
    Concurrent,
    /// Goes back again and again.
    Replayed,
    /// Is set forward again and again.
    Forwarded,
    /// Begins with one topic.
    Widened,
    /// Comes later, from the beginning.
    Late,
    /// Comes later, from now on.
    New,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Single,
        Self::Emitting,
        Self::AllOrNothing,
        Self::Runs,
        Self::Concurrent,
        Self::Replayed,
        Self::Forwarded,
        Self::Widened,
        Self::Late,
        Self::New,
    ];

    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Emitting => "emitting",
            Self::AllOrNothing => "all_or_nothing",
            Self::Runs => "runs",
            Self::Concurrent => "concurrent",
            Self::Replayed => "replayed",
            Self::Forwarded => "forwarded",
            Self::Widened => "widened",
            Self::Late => "late",
            Self::New => "new",
        }
    }

    pub(super) fn of(group: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.group() == group)
    }

    /// Every effect is there once.
    pub(super) fn is_exact(self) -> bool {
        !matches!(self, Self::Concurrent | Self::Replayed)
    }

    /// When it comes into being, or reads all topics.
    pub(super) fn comes_after(self) -> Option<Duration> {
        let seconds = match self {
            Self::Late => 5,
            Self::New => 7,
            Self::Widened => 10,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// With settings that are drawn; `narrow` is a [`Widened`](Self::Widened) group's first self.
    pub(super) fn consumer(
        self,
        log: EventBox,
        state: State,
        rng: &mut Rng,
        narrow: bool,
    ) -> Result<Consumer, BuildError> {
        let (workers, batch) = (rng.usize(1..3), [1, 3, 20, 200, 1_000][rng.usize(0..5)]);
        let bytes = [60, 500, 8 << 20, 8 << 20][rng.usize(0..4)];
        // Later than a look would come by chance.
        let backoff = Backoff::fixed(Duration::from_millis(rng.u64(1..200)));
        let builder = Consumer::builder(log, self.group()).state(state);
        macro_rules! built {
            ($builder:expr) => {
                $builder
                    .workers(workers)
                    .batch_size(batch)
                    .batch_bytes(bytes)
                    .backoff(backoff)
                    // Innocent events are charged with deaths where processes are killed as often as here.
                    .max_deaths(1_000)
                    .max_attempts(1_000)
                    .retention(None)
                    .build()
            };
        }
        match self {
            Self::Widened if narrow => built!(builder.on(counted)),
            Self::New => built!(builder.on(single).from_now()),
            Self::Emitting => built!(builder.on(emitting)),
            Self::AllOrNothing => built!(builder.on(single).all_or_nothing()),
            Self::Runs => built!(builder.on_batch(run).on(tally).on(loose)),
            Self::Concurrent => built!(builder.concurrent(6).on(detached)),
            _ => built!(builder.on(single)),
        }
    }
}

/// What handlers think of events, each a few times at most in a process.
#[derive(Debug)]
pub(super) struct Whims {
    pub(super) pool: PgPool,
    member: String,
    seed: u64,
    seen: Mutex<HashMap<(String, String, i64), u32>>,
}

pub(super) type State = &'static Whims;

impl Whims {
    pub(super) fn new(pool: PgPool, member: String, seed: u64) -> State {
        Box::leak(Box::new(Self { pool, member, seed, seen: Mutex::default() }))
    }

    fn of(&self, group: &str, event: &Counted, attempt: u32) -> Option<Failure> {
        let times = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let times = seen.entry((group.to_owned(), event.key.clone(), event.n)).or_default();
            *times += 1;
            *times
        };
        let mut rng = self.rng(&(group, event, times));
        // The first attempt at some keys fails often, so that their followers wait.
        let often = event.key.starts_with('k') && attempt == 1 && event.n % 4 == 0;
        if times > 2 || !(often || rng.u16(..) < 400) {
            return None;
        }
        match rng.u8(0..8) {
            _ if often => Some(Failure::Retry(WHIM.into())),
            0 => Some(Failure::Unavailable(WHIM.into())),
            1 | 2 => Some(Failure::Snooze(Duration::from_millis(5))),
            3 => panic!("{WHIM}"),
            _ => Some(Failure::Retry(WHIM.into())),
        }
    }

    /// What is drawn does not depend on who comes first.
    fn rng(&self, of: &impl Hash) -> Rng {
        let mut hasher = DefaultHasher::new();
        (self.seed, of).hash(&mut hasher);
        Rng::with_seed(hasher.finish())
    }
}

/// What is said of a failure that was drawn.
pub(super) const WHIM: &str = "whim";

type Handled = Result<(), Failure>;

async fn note(event: Counted, cx: &mut Context<'_, State>) -> Handled {
    let whim = cx.state().of(cx.group(), &event, cx.info().attempt());
    Seen::note(&cx.state().member, &event, cx).await?;
    whim.map_or(Ok(()), Err)
}

async fn single(event: Any, cx: &mut Context<'_, State>) -> Handled {
    note(event.into_counted(), cx).await
}

async fn counted(event: Counted, cx: &mut Context<'_, State>) -> Handled {
    note(event, cx).await
}

async fn tally(event: Tallied, cx: &mut Context<'_, State>) -> Handled {
    note(Any::Tallied(event).into_counted(), cx).await
}

async fn loose(event: Loose, cx: &mut Context<'_, State>) -> Handled {
    note(Any::Loose(event).into_counted(), cx).await
}

/// Emits in the delivery's own transaction, under keys of its own.
async fn emitting(event: Any, cx: &mut Context<'_, State>) -> Handled {
    let event = event.into_counted();
    if !event.key.starts_with('h') && event.n % 5 == 0 {
        let key = format!("h{}", event.key);
        let emitted = super::emitters::emit(cx.connection().await?, &key, 1, 3).await;
        emitted.map_err(|error| Failure::Retry(error.into()))?;
    }
    note(event, cx).await
}

async fn run(events: Vec<Delivery<Counted>>, cx: &mut Context<'_, State>) -> Result<Vec<Failed>, Failure> {
    let (mut failed, mut handled) = (Vec::new(), Vec::new());
    for delivery in events {
        match cx.state().of(cx.group(), &delivery.event, delivery.info().attempt()) {
            Some(failure) => failed.push(delivery.failed(failure)),
            None => handled.push(delivery.event),
        }
    }
    if !failed.is_empty() && cx.state().rng(&(failed.len(), handled.len())).bool() {
        return Err(WHIM.into());
    }
    let keys: Vec<_> = handled.iter().map(|event| event.key.clone()).collect();
    let numbers: Vec<_> = handled.iter().map(|event| event.n).collect();
    let insert = "insert into seen (member, grp, key, n)
                  select $4, $1, key, n from unnest($2::text[], $3::bigint[]) with ordinality as u (key, n, i) order by i";
    let (group, member) = (cx.group().to_owned(), cx.state().member.clone());
    sqlx::query(insert).bind(group).bind(keys).bind(numbers).bind(member).execute(&mut *cx).await?;
    Ok(failed)
}

async fn detached(event: Any, cx: &mut Detached<'_, State>) -> Handled {
    let event = event.into_counted();
    let Whims { pool, member, .. } = cx.state();
    if let Some(whim) = cx.state().of(cx.group(), &event, cx.info().attempt()) {
        return Err(whim);
    }
    let insert = "insert into seen (member, grp, key, n) values ($1, $2, $3, $4)";
    sqlx::query(insert).bind(member).bind(cx.group()).bind(&event.key).bind(event.n).execute(pool).await?;
    Ok(())
}
