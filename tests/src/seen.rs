use event_box::Context;
use sqlx::PgPool;

use crate::{Counted, PATIENCE};

/// A handler that writes what it sees, in the delivery's own transaction, so that it is there as often as it was handled.
/// Needs [`Seen::TABLE`].
#[derive(Debug)]
pub struct Seen;

impl Seen {
    /// `at` ascends in the order of handling, within a key.
    pub const TABLE: &'static str = "create table seen (at bigserial, member text not null, grp text not null, key text not null, n bigint not null)";

    /// Writes down one event.
    pub async fn note<S: Sync>(member: &str, event: &Counted, cx: &mut Context<'_, S>) -> Result<(), sqlx::Error> {
        let group = cx.group().to_owned();
        sqlx::query("insert into seen (member, grp, key, n) values ($1, $2, $3, $4)")
            .bind(member)
            .bind(group)
            .bind(&event.key)
            .bind(event.n)
            .execute(cx)
            .await?;
        Ok(())
    }
}

/// Every key with what a group saw of it, in order of handling.
pub async fn seen_by(pool: &PgPool, group: &str) -> Vec<(String, Vec<i64>)> {
    sqlx::query_as("select key, array_agg(n order by at) from seen where grp = $1 group by key order by key")
        .bind(group)
        .fetch_all(pool)
        .await
        .expect("what was seen")
}

/// Waits until a group has seen this many events, or more; for as long as it sees more of them.
pub async fn wait_until_seen(pool: &PgPool, group: &str, events: i64) {
    let seen = || async {
        let count: i64 = sqlx::query_scalar("select count(*) from seen where grp = $1")
            .bind(group)
            .fetch_one(pool)
            .await
            .expect("a count");
        count
    };
    let (mut most, mut deadline) = (0, tokio::time::Instant::now() + PATIENCE);
    loop {
        let seen = seen().await;
        if seen >= events {
            return;
        }
        if seen > most {
            (most, deadline) = (seen, tokio::time::Instant::now() + PATIENCE);
        }
        assert!(tokio::time::Instant::now() < deadline, "{group} saw {seen} of {events} events");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Each key's events from 1 to the counter's value: none lost, none twice, none out of order, none invented.
pub async fn assert_each_once_in_order(pool: &PgPool, group: &str) {
    let counters: Vec<(String, i64)> = sqlx::query_as("select key, n from counters where n > 0 order by key")
        .fetch_all(pool)
        .await
        .expect("the counters");
    let expected: Vec<_> = counters.into_iter().map(|(key, n)| (key, (1..=n).collect::<Vec<_>>())).collect();
    assert_eq!(seen_by(pool, group).await, expected, "group {group}");
}
