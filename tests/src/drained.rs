use std::collections::BTreeMap;

use event_box::{BoxError, Context};
use sqlx::PgPool;

use crate::PATIENCE;

/// A batch handler's book: how far each group is with each key, in the delivery's own transaction. Small, however many events there are;
/// an event out of order, lost or given twice is refused. Needs [`Drained::TABLE`].
#[derive(Debug)]
pub struct Drained;

impl Drained {
    /// What was drained, and how many events each run had.
    pub const TABLE: &'static str = "
        create table drained (grp text not null, key text not null, n bigint not null, primary key (grp, key));
        create table runs (grp text not null, events bigint not null)";

    /// Takes a run, each event with its key and its number.
    pub async fn note<S: Sync>(
        run: impl Iterator<Item = (&str, i64)>,
        cx: &mut Context<'_, S>,
    ) -> Result<(), BoxError> {
        let (mut of_keys, mut events) = (BTreeMap::new(), 0_i64);
        for (key, n) in run {
            events += 1;
            let (_, last) = of_keys.entry(key.to_owned()).or_insert((n, n - 1));
            if n != *last + 1 {
                return Err(format!("{key}: {n} after {last}").into());
            }
            *last = n;
        }
        let group = cx.group().to_owned();
        let keys: Vec<_> = of_keys.keys().cloned().collect();
        let (first, last): (Vec<i64>, Vec<i64>) = of_keys.into_values().unzip();
        sqlx::query(
            "insert into drained select $1, key, 0 from unnest($2::text[]) as run (key) on conflict do nothing",
        )
        .bind(&group)
        .bind(&keys)
        .execute(&mut *cx)
        .await?;
        let moved = sqlx::query(
            "update drained as d set n = run.last from unnest($2::text[], $3::bigint[], $4::bigint[]) as run (key, first, last)
             where d.grp = $1 and d.key = run.key and d.n = run.first - 1",
        )
        .bind(&group)
        .bind(&keys)
        .bind(first)
        .bind(last)
        .execute(&mut *cx)
        .await?;
        if moved.rows_affected() != keys.len() as u64 {
            return Err("a run does not begin where the last of its key ended".into());
        }
        sqlx::query("insert into runs values ($1, $2)").bind(group).bind(events).execute(cx).await?;
        Ok(())
    }
}

/// Waits until a group has drained so many events; for as long as it gets on, and none is dead.
pub async fn wait_until_drained(pool: &PgPool, group: &str, events: i64) {
    let (mut drained, mut deadline) = (0, tokio::time::Instant::now() + PATIENCE);
    while drained < events {
        let (sum, error): (i64, Option<String>) = sqlx::query_as(
            "select (select coalesce(sum(n), 0)::bigint from drained where grp = $1),
                    (select min(error) from event_box.parked where group_name = $1 and dead_at is not null)",
        )
        .bind(group)
        .fetch_one(pool)
        .await
        .expect("what was drained");
        assert_eq!(error, None, "group {group}");
        if sum > drained {
            (drained, deadline) = (sum, tokio::time::Instant::now() + PATIENCE);
        }
        assert!(tokio::time::Instant::now() < deadline, "group {group} stands at {drained} of {events} events");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(drained, events, "group {group}");
}
