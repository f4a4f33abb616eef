use std::{future::Future, time::Duration};

use event_box::{Backoff, BoxError, Consumer, Context, Delivery, Detached, EventBox, Failure, PullBuilder};
use event_box_tests::{Counted, Running, Seen, Tallied, assert_each_once_in_order};
use sqlx::PgPool;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Either, Stage, emit_somehow};

const EXACT: [&str; 4] = ["single", "all_or_nothing", "runs", "pull"];
const PATIENCE: Duration = Duration::from_secs(120);

fn counted(event: Either) -> Counted {
    match event {
        Either::Counted(event) => event,
        Either::Tallied(Tallied { key, n }) => Counted { key, n },
    }
}

async fn single(event: Either, cx: &mut Context<'_, PgPool>) -> Result<(), Failure> {
    Seen::note("m", &counted(event), cx).await?;
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
    Ok(Seen::note("m", &counted(Either::Tallied(event)), cx).await?)
}

async fn detached(event: Either, cx: &mut Detached<'_, PgPool>) -> Result<(), BoxError> {
    let event = counted(event);
    let mut tx = cx.state().begin().await?;
    let insert = "insert into seen (member, grp, key, n) values ('m', 'concurrent', $1, $2)";
    sqlx::query(insert).bind(&event.key).bind(event.n).persistent(false).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// The groups of one process.
fn start(log: &EventBox) -> Vec<Running> {
    macro_rules! started {
        ($group:literal, $handled:ident => $handlers:expr) => {{
            let $handled = Consumer::builder(log, $group).state(log.pool().clone());
            // A pooler that is killed looks like the death of every process that had a batch in hand.
            let built =
                $handlers.workers(2).backoff(Backoff::fixed(Duration::from_millis(20))).max_deaths(1_000).build();
            Running::start(built.unwrap())
        }};
    }
    vec![
        started!("single", group => group.on(single)),
        started!("all_or_nothing", group => group.on(single).all_or_nothing()),
        started!("runs", group => group.on_batch(run).on(tally)),
        started!("concurrent", group => group.concurrent(4).on(detached)),
    ]
}

async fn pull(log: EventBox, stop: CancellationToken) {
    let pull = until_done(|| PullBuilder::new(&log, "pull").event::<Counted>().event::<Tallied>().open()).await;
    while !stop.is_cancelled() {
        let pulled = async {
            let mut tx = log.pool().begin().await?;
            let batch = pull.batch(&mut tx, 20).await?;
            let any = !batch.is_empty();
            for event in batch {
                let Counted { key, n } = counted(event.decode()?);
                let insert = "insert into seen (member, grp, key, n) values ('m', 'pull', $1, $2)";
                sqlx::query(insert).bind(key).bind(n).persistent(false).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            Ok::<_, BoxError>(any)
        };
        if !pulled.await.unwrap_or(false) {
            let _ = tokio::time::timeout(Duration::from_millis(100), pull.wait()).await;
        }
    }
}

async fn until_done<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The first of each, where a group delivers at least once: none lost, none invented, none before its time.
async fn assert_each_in_order(pool: &PgPool, group: &str) {
    let wrong: i64 = sqlx::query_scalar(
        "with firsts as (select key, n, min(at) as at from seen where grp = $1 group by key, n),
              places as (select key, n, row_number() over (partition by key order by at) as place from firsts),
              wrong as (select from places where n <> place
                        union all select from counters as c where n <> (select count(*) from places as p where p.key = c.key))
         select count(*) from wrong",
    )
    .bind(group)
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(wrong, 0, "{group}");
}

/// Two processes with five groups and a puller, four emitters, and a pooler that is killed now and then.
#[tokio::test(flavor = "multi_thread")]
async fn every_mode_delivers_each_event_once_in_order_while_pgbouncer_is_killed() {
    let stage = Stage::set(12).await;
    let (first, second) = (stage.pgbouncer.log().await, stage.pgbouncer.log().await);
    let (mut running, stop, mut beside) = (Vec::new(), CancellationToken::new(), JoinSet::new());
    for log in [&first, &second] {
        running.extend(start(log));
        beside.spawn(pull(log.clone(), stop.clone()));
    }
    let until = Instant::now() + Duration::from_secs(8);
    let mut emitters = JoinSet::new();
    for emitter in 0..4 {
        let log = stage.pgbouncer.log().await;
        emitters.spawn(async move {
            let outbox = log.outbox();
            while Instant::now() < until {
                let key = format!("k{}", fastrand::u8(0..6));
                // Where the answer was lost, the counter tells whether it is in the database.
                let _ = emit_somehow(&log, &outbox, &key, (emitter + fastrand::usize(..6)) % 6).await;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(5..30))).await;
            }
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1_500..2_500))).await;
        stage.pgbouncer.restart();
    }
    while emitters.join_next().await.is_some() {}
    let all = stage.number("select sum(n)::bigint from counters").await;
    assert!(all > 100, "{all}");
    let deadline = Instant::now() + PATIENCE;
    let missing = "select count(*) from (values ('single'), ('all_or_nothing'), ('runs'), ('concurrent'), ('pull')) as g (grp)
                   where (select count(distinct (key, n)) from seen as s where s.grp = g.grp) < (select sum(n) from counters)";
    while stage.number(missing).await > 0 {
        assert!(
            Instant::now() < deadline,
            "{} groups have not been given all\n{}",
            stage.number(missing).await,
            stage.pgbouncer.said()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    for running in running {
        running.stop().await.unwrap();
    }
    while beside.join_next().await.is_some() {}
    for group in EXACT {
        assert_each_once_in_order(&stage.direct, group).await;
    }
    assert_each_in_order(&stage.direct, "concurrent").await;
    first.pool().close().await;
    second.pool().close().await;
    stage.strike().await;
}
