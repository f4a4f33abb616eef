use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    events::LOOSE,
    groups::Kind,
    history::{Wrong, told},
    puller,
    world::World,
};

/// A group that misses events and is given none for so long stands still. Shorter than the look that every group takes after half a minute
/// whatever the polls say: it would hide what the idle rule does not know.
const PATIENCE: Duration = Duration::from_secs(24);

/// What a group has not been given yet.
const OWED: &str = "
    select c.key, g.n from counters as c cross join lateral generate_series(1, c.n) as g (n)
    left join bases as b on b.grp = $1 and b.key = c.key
    where not (g.n <= coalesce(b.n, 0) and (not b.tallied or g.n % 3 = 0))
      and not exists (select from cancelled as x where x.key = c.key and x.n = g.n)
      and not exists (select from seen as s where s.grp = $1 and s.key = c.key and s.n = g.n)
    order by g.n";

/// What was promised with a replay, or to a group that begins with the log, and did not come after.
const BROKEN: &str = "
    select p.key, p.n from promised as p
    where p.grp = $1 and not exists (select from seen as s where s.grp = p.grp and s.key = p.key and s.n = p.n and s.noted_at > p.since)
    order by p.n";

fn groups() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().map(Kind::group).chain([puller::GROUP])
}

/// Waits until every group was given what it is owed, unless one stands still.
pub(super) async fn all_arrives(world: &World) -> Result<()> {
    let mut waiting: Vec<_> = groups().map(|group| (group, usize::MAX, Instant::now())).collect();
    loop {
        let mut still = Vec::new();
        for (group, before, since) in waiting {
            let owed = owed(world, group).await?;
            if owed.is_empty() {
                continue;
            }
            let seen = seen(world, group).await?;
            let since = if seen != before { Instant::now() } else { since };
            if since.elapsed() > PATIENCE {
                let (key, n) = owed[0].clone();
                let what = format!("{} events have not arrived, {key} {n} among them", owed.len());
                return Err(told(world, Wrong { group, key, what }).await);
            }
            still.push((group, seen, since));
        }
        if still.is_empty() {
            return Ok(());
        }
        waiting = still;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn seen(world: &World, group: &str) -> Result<usize> {
    let seen = sqlx::query_scalar::<_, i64>("select count(*) from seen where grp = $1").bind(group);
    Ok(seen.fetch_one(&world.pool).await? as usize)
}

async fn owed(world: &World, group: &str) -> Result<Vec<(String, i64)>> {
    let mut owed: Vec<(String, i64)> = Vec::new();
    for sql in [OWED, BROKEN] {
        owed.extend(sqlx::query_as::<_, (String, i64)>(sql).bind(group).fetch_all(&world.pool).await?);
    }
    Ok(owed)
}

/// None twice, none invented, each key in its order.
pub(super) async fn check(world: &World) -> Result<()> {
    let counters: BTreeMap<String, i64> =
        sqlx::query_as("select key, n from counters").fetch_all(&world.pool).await?.into_iter().collect();
    let cancelled: Vec<(String, i64)> = sqlx::query_as("select key, n from cancelled").fetch_all(&world.pool).await?;
    for group in groups() {
        let exact = Kind::of(group).is_none_or(Kind::is_exact);
        for (key, numbers) in crate::seen_by(&world.pool, group).await {
            if let Some(what) = wrong(&key, &numbers, exact, counters.get(&key), &cancelled) {
                return Err(told(world, Wrong { group, key, what }).await);
            }
        }
    }
    Ok(())
}

/// What is wrong with what a group was given of a key, in this order.
fn wrong(key: &str, numbers: &[i64], exact: bool, count: Option<&i64>, cancelled: &[(String, i64)]) -> Option<String> {
    let is_cancelled = |n: i64| cancelled.iter().any(|(of, number)| of == key && *number == n);
    if let Some(n) = numbers.iter().find(|n| count.is_none_or(|count| *n > count) || is_cancelled(**n)) {
        return Some(format!("{key} {n} was never committed"));
    }
    let ordered = key != LOOSE && !key.starts_with('d');
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    let mut most = 0;
    for n in numbers {
        let again = times.entry(*n).or_default();
        *again += 1;
        if exact && *again > 1 {
            return Some(format!("{key} {n} came twice"));
        }
        // At least once: again from an earlier one on, but never past one that did not come.
        if ordered && (if exact { *n <= most } else { *n > most + 1 }) {
            return Some(format!("{key} {n} came after {most}"));
        }
        most = most.max(*n);
    }
    None
}

/// The group need not be given what is committed by now; a group that begins with the log must be given what that holds.
pub(super) async fn owes_from_now_on(world: &World, kind: Kind) -> Result<()> {
    if kind == Kind::Late {
        promise(world, kind, 1).await?;
    }
    let base = "insert into bases select $1, key, n, $2 and key <> 'loose' from counters
                on conflict (grp, key) do update set n = excluded.n";
    sqlx::query(base).bind(kind.group()).bind(kind == Kind::Widened).execute(&world.pool).await?;
    Ok(())
}

/// What the log holds from a sequence on is given to the group after its last replay, which held its workers up.
pub(super) async fn promise(world: &World, kind: Kind, from: i64) -> Result<()> {
    let promise = "insert into promised
                   select $1, coalesce(last.at, '-infinity'), coalesce(partition_key, 'loose'), (payload->>'n')::bigint
                   from event_box.events
                   cross join (select max(at) as at from event_box.interventions where group_name = $1 and action = 'replay') as last
                   where sequence >= $2";
    sqlx::query(promise).bind(kind.group()).bind(from).execute(&world.pool).await?;
    Ok(())
}
