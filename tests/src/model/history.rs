use std::fmt::Write as _;

use super::world::World;

/// Something that must not be.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) group: &'static str,
    pub(super) key: String,
    pub(super) what: String,
}

/// What became of the key's neighbours, in the order of time.
const EVENTS: &str = "
    with place as (select partition from emitted where key = $2 limit 1),
         lines as (
            select at, format('%s emitted  %s %s, sequence %s, xid %s', at::time, e.key, n, sequence, xid) as line
            from emitted as e join place using (partition) where sequence > 0
            union all
            select noted_at, format('%s handled  %s %s, xid %s, %s', noted_at::time, s.key, n, xid, member)
            from seen as s where grp = $1 and key in (select key from emitted join place using (partition))
            union all
            select i.at, format('%s %s %s', i.at::time, action, detail) from event_box.interventions as i where group_name = $1
         )
    select line from lines order by at desc limit 400";

const CURSOR: &str = "
    select format('cursor: position %s, snapshot %s, floors %s, floor %s, mark %s of %s, target %s, reached %s, advanced %s',
                  position, snapshot, floors, floor, mark, mark_xid, target, reached, advanced_at::time)
    from event_box.cursors where group_name = $1 and partition in (select partition from emitted where key = $2)";

const PARKED: &str = "
    select format('parked: %s, sequence %s, %s, attempt %s, due %s', partition_key, sequence, reason, attempts, due_at::time)
    from event_box.parked where group_name = $1 and partition in (select partition from emitted where key = $2) order by sequence limit 50";

/// The error that tells the seed, what is wrong and how it came about.
pub(super) async fn told(world: &World, Wrong { group, key, what }: Wrong) -> anyhow::Error {
    let mut text =
        format!("seed {}: group {group}: {what}\nits partition's history, the latest last:\n", world.options.seed);
    for (sql, backwards) in [(EVENTS, true), (CURSOR, false), (PARKED, false)] {
        let lines = sqlx::query_scalar::<_, String>(sql).bind(group).bind(&key).fetch_all(&world.pool).await;
        let mut lines = lines.unwrap_or_else(|error| vec![error.to_string()]);
        if backwards {
            lines.reverse();
        }
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    anyhow::anyhow!(text)
}
