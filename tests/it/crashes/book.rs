use std::{collections::BTreeMap, time::Duration};

use event_box_tests::{PATIENCE, Seen, assert_each_once_in_order, seen_by};
use fastrand::Rng;
use sqlx::PgPool;
use tokio::time::Instant;

use super::mode::Mode;

/// Where an application counts what it emits, and where groups write what they see.
pub(super) async fn open(pool: &PgPool) {
    event_box::migrate(pool).await.unwrap();
    sqlx::raw_sql(Seen::TABLE).execute(pool).await.unwrap();
    sqlx::raw_sql("create table counters (key text primary key, n bigint not null)").execute(pool).await.unwrap();
}

/// Drawn from a seed that is printed.
pub(super) fn rng() -> Rng {
    let seed = std::env::var("EVENT_BOX_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("EVENT_BOX_SEED={seed}");
    Rng::with_seed(seed)
}

/// How long a test at random goes on: so many seconds, or as many as the environment says.
pub(super) fn time(seconds: u64) -> Duration {
    let given = std::env::var("EVENT_BOX_CRASH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(seconds))
}

/// The one number that a query answers with.
pub(super) async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect(sql)
}

/// Waits until the group has seen everything that was committed, and has nothing in hand any more.
pub(super) async fn wait_until_settled(pool: &PgPool, group: &str) {
    let open = "select (select coalesce(sum(n), 0)::bigint from counters)
                     - (select count(distinct (key, n)) from seen where grp = $1)
                     + (select count(*) from event_box.parked where group_name = $1)
                     + (select count(*) from event_box.starts where group_name = $1)";
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let open: i64 = sqlx::query_scalar(open).bind(group).fetch_one(pool).await.expect("a count");
        if open == 0 {
            return;
        }
        if Instant::now() > deadline {
            let parked: Vec<(String, i64, String, i32, i32, Option<String>)> = sqlx::query_as(
                "select partition_key, sequence, reason, attempts, deaths, error from event_box.parked where group_name = $1",
            )
            .bind(group)
            .fetch_all(pool)
            .await
            .expect("what is parked");
            panic!("group {group}: {open} events are open, parked: {parked:#?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// 1 to n of every key, in order, once; in a concurrent group at least once, and none before those before it were seen.
pub(super) async fn assert_complete(pool: &PgPool, group: &str, mode: Mode) {
    if mode.is_exact() {
        return assert_each_once_in_order(pool, group).await;
    }
    let counters: BTreeMap<String, i64> =
        sqlx::query_as("select key, n from counters where n > 0").fetch_all(pool).await.unwrap().into_iter().collect();
    let mut most = BTreeMap::new();
    for (key, numbers) in seen_by(pool, group).await {
        let mut last = 0;
        for n in numbers {
            assert!(n <= last + 1, "group {group}, key {key}: {n} after {last}");
            last = last.max(n);
        }
        most.insert(key, last);
    }
    assert_eq!(most, counters, "group {group}");
}
