use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event_box::{Backoff, Consumer, Context, EventBox, Failure, Outbox, Selection};
use event_box_dev::{Search, Server, ServerOptions, Upgrade};
use event_box_tests::{
    Counted, PATIENCE, Running, Seen, assert_each_once_in_order, emit_next, seen_by, wait_until_seen,
};
use sqlx::PgPool;

use crate::replay::{ALL_DELIVERED, emitters};

const SOON: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3_600);
/// The first two run through the upgrade, the third is halted before it.
const GROUPS: [&str; 3] = ["echo", "plain", "halted"];

/// Handles so many events. The first try at every seventh fails, `halted` rejects what dies, `echo` answers every other with an event of
/// another key.
fn consumer(pool: &PgPool, group: &str, room: usize, backoff: Duration, heals: bool) -> Consumer {
    let handle = async |event: Counted, cx: &mut Context<'_, Arc<(AtomicUsize, bool)>>| -> Result<(), Failure> {
        let (room, heals) = &**cx.state();
        let heals = *heals;
        room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1))
            .map_err(|_| Failure::Unavailable("no more room".into()))?;
        Seen::note("m", &event, cx).await?;
        if event.key == "dies" && cx.group() == "halted" && !heals {
            return Err(Failure::Reject("cannot be handled yet".into()));
        }
        if event.n % 7 == 0 && cx.attempt() == 1 {
            return Err(Failure::Retry("not yet".into()));
        }
        if cx.group() == "echo" && !event.key.starts_with("echo") && event.n % 2 == 0 {
            emit_next(cx.connection().await?, &format!("echo-{}", event.key)).await.map_err(Failure::Retry)?;
        }
        Ok(())
    };
    Consumer::builder(pool, group)
        .state(Arc::new((AtomicUsize::new(room), heals)))
        .on(handle)
        .backoff(Backoff::fixed(backoff))
        .workers(2)
        .batch_size(20)
        .build()
        .unwrap()
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect(sql)
}

async fn wait_until(pool: &PgPool, sql: &'static str, at_least: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while number(pool, sql).await < at_least {
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {}", number(pool, sql).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const IN_PASSES: &str = "select count(target) from event_box.cursors where group_name = 'halted'";
const PARKED: &str = "select count(*) from event_box.parked where group_name = 'halted' and dead_at is null";
const DEAD: &str = "select count(*) from event_box.parked where group_name = 'halted' and dead_at is not null";
const LATE: &str = "select count(*) from event_box.events e join event_box.cursors c using (partition)
    where c.group_name = 'halted' and e.sequence <= c.position and not pg_visible_in_snapshot(e.xid, c.snapshot)";
const DELAYED: &str = "select count(*) from event_box.delayed";

/// Everything that waits for something, each at least once: [`IN_PASSES`], [`PARKED`], [`DEAD`], [`LATE`], [`DELAYED`].
async fn halt_amid_everything(pool: &PgPool) {
    // Late events between others of their partition; five more that commit behind the group's back while it is halted.
    let neighbour: String = sqlx::query_scalar(
        "select 'n' || i from generate_series(1, 100000) i where hashtextextended('n' || i, 0) & 63 = hashtextextended('late', 0) & 63 limit 1",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let (mut late, mut later) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    for _ in 0..5 {
        emit_next(&mut late, "late").await.unwrap();
        emit_next(&mut later, "later").await.unwrap();
        // What is behind a late one of its own partition makes it late.
        emit_next(&mut pool.acquire().await.unwrap(), &neighbour).await.unwrap();
    }
    // The seventh is parked for an hour, the eighth behind it.
    for key in ["parks"; 8].into_iter().chain(["dies"]) {
        emit_next(&mut pool.acquire().await.unwrap(), key).await.unwrap();
    }
    let halted = Running::start(consumer(pool, "halted", usize::MAX, HOUR, false));
    wait_until_seen(pool, "halted", 11).await;
    wait_until(pool, PARKED, 2).await;
    wait_until(pool, DEAD, 1).await;
    halted.stop().await.unwrap();
    late.commit().await.unwrap();
    let halted = Running::start(consumer(pool, "halted", 2, HOUR, false));
    wait_until(pool, IN_PASSES, 1).await;
    halted.stop().await.unwrap();
    later.commit().await.unwrap();

    for n in 1..=3 {
        let event = Counted { key: "delayed".to_owned(), n };
        Outbox::new().emit(pool, &event).delay(HOUR + n as u32 * Duration::from_secs(1)).await.unwrap();
    }
    sqlx::raw_sql("insert into counters values ('delayed', 3)").execute(pool).await.unwrap();
}

/// By the server's fast stop in the middle of deliveries and of emitting transactions, and by `pg_upgrade`.
#[tokio::test(flavor = "multi_thread")]
async fn pg_upgrade_amid_deliveries_loses_and_doubles_nothing() {
    let Upgrade { old, new } = match tokio::task::spawn_blocking(|| Upgrade::find(Search::everywhere)).await.unwrap() {
        Ok(upgrade) => upgrade,
        Err(error) if std::env::var_os("EVENT_BOX_UPGRADE").is_some_and(|what| what == "required") => panic!("{error}"),
        Err(error) => return println!("left out: {error}"),
    };
    println!("from PostgreSQL {} to {}", old.version(), new.version());
    let options = ServerOptions::new().setting("fsync", "off").binaries(old.dir());
    let mut server = tokio::task::spawn_blocking(move || Server::start(&options)).await.unwrap().unwrap();
    let database = server.create_database("upgraded").await.unwrap();
    let pool = database.pool(40).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(&pool).await.unwrap();
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(&pool).await.unwrap();
    halt_amid_everything(&pool).await;

    let [echo, plain, _] = GROUPS;
    let through = [echo, plain].map(|group| Running::start(consumer(&pool, group, usize::MAX, SOON, true)));
    let mut open = pool.begin().await.unwrap();
    emit_next(&mut open, "open").await.unwrap();
    let emitting = emitters(&pool, 4, 100_000, 20);
    wait_until_seen(&pool, echo, 150).await;
    let waiting = async || {
        let mut waiting = Vec::new();
        for what in [IN_PASSES, PARKED, DEAD, DELAYED] {
            waiting.push(number(&pool, what).await);
        }
        waiting
    };
    let before = waiting().await;
    assert_eq!(before, [1, 2, 1, 3]);
    assert!(number(&pool, LATE).await >= 8, "three of a pass and five that committed behind it");
    drop(emitting);
    let major = new.major();
    let server = tokio::task::spawn_blocking(move || server.upgrade(&new).map(|()| server)).await.unwrap().unwrap();
    drop(open);

    assert_eq!(number(&pool, "select current_setting('server_version_num')::bigint / 10000").await, i64::from(major));
    assert_eq!(waiting().await, before);
    let emitting = emitters(&pool, 4, 10, 20);
    sqlx::raw_sql(
        "update event_box.parked set due_at = now() where due_at is not null;
         update event_box.delayed set due_at = due_at - interval '2 hours'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let halted = Running::start(consumer(&pool, "halted", usize::MAX, SOON, true));
    let requeued = EventBox::from(&pool).group("halted").requeue(Selection::All).await.unwrap();
    assert_eq!(requeued.events, 1);
    emitting.join_all().await;
    // All at one moment: what is retried may emit, and what that emits may be parked.
    let settled = format!(
        "select ({ALL_DELIVERED})
         * (not exists (select from event_box.parked) and not exists (select from event_box.delayed))::int::bigint"
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(settled.clone())).fetch_one(&pool).await.unwrap() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "not all is delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for running in through.into_iter().chain([halted]) {
        running.stop().await.unwrap();
    }
    for group in GROUPS {
        assert_each_once_in_order(&pool, group).await;
        let late = seen_by(&pool, group).await.into_iter().filter(|(key, _)| key.starts_with("late")).count();
        assert_eq!(late, 2);
    }
    assert_eq!(number(&pool, "select count(*) from seen where key = 'open'").await, 0, "it was rolled back");
    pool.close().await;
    database.close().await.unwrap();
    server.stop().unwrap();
}
