-- Which partitions of a group have work, unlocked, least recently advanced first. Index probes and short index ranges only.
-- A single row of nulls where none has; no row at all where there is no such group.
-- (`offset 0` keeps the planner from evaluating a lateral expression once for each of its uses.)
with now as materialized (select pg_current_snapshot() as s)
select found.partition as "partition?", found.work as "work?", found.tidy as "tidy?", found.due as "due_in_seconds?",
       g.paused_at is not null as "paused!"
from event_box.consumer_groups as g
left join lateral (
    select c.partition, c.advanced_at, due,
           c.target is not null or fresh or late as work,
           -- Nothing to handle, but an advance would spare the next look what this one had to scan.
           late_rows > 100 or foreign_rows >= 1000
               or (foreign_rows > 0 and c.advanced_at < statement_timestamp() - interval '1 minute') as tidy
    from event_box.cursors as c
    cross join now
    cross join lateral (
        select exists (
            select from (
                select topic from event_box.events where partition = c.partition and sequence > c.position
                order by sequence limit 1000
            ) as ahead where ahead.topic = any(g.topics)
        ) as fresh offset 0
    ) as fresh
    cross join lateral (
        select case when fresh then 0 else (
            select count(*) from (
                select from event_box.events where partition = c.partition and sequence > c.position
                order by sequence limit 1000
            ) as ahead
        ) end as foreign_rows offset 0
    ) as foreign_rows
    cross join lateral (
        select greatest(
            least(c.floor, c.position, (
                select min(f) from unnest(array(select * from pg_snapshot_xip(c.snapshot)), c.floors) as old (xid, f)
                where pg_visible_in_snapshot(xid, s)
            )),
            least(c.reached, c.position)
        ) as low offset 0
    ) as low
    cross join lateral (
        select count(*) as late_rows,
               coalesce(bool_or(e.topic = any(g.topics) and not pg_visible_in_snapshot(e.xid, c.snapshot)), false) as late
        -- Beyond a hundred there is nothing to decide: a batch goes through them.
        from (
            select topic, xid from event_box.events
            where low < c.position and partition = c.partition and sequence > low and sequence <= c.position
            order by sequence limit 101
        ) as e
    ) as late
    left join lateral (
        select min(seconds) as due
        from (
            (select extract(epoch from p.due_at - statement_timestamp())::float8
             from event_box.parked as p
             where p.group_name = g.name and p.partition = c.partition and p.due_at is not null and p.topic = any($2::text[])
               and (p.partition_key is null or not exists (
                   select from event_box.parked as before
                   where before.group_name = p.group_name and before.partition = p.partition
                     and before.partition_key = p.partition_key and before.sequence < p.sequence and before.blocks))
             order by p.due_at
             limit 1)
            union all
            -- Parked by a process without a handler for it: due wherever there is one.
            (select 0
             from event_box.parked as p
             where p.group_name = g.name and p.partition = c.partition and p.reason = 'no_handler' and p.topic = any($2::text[])
               and (p.partition_key is null or not exists (
                   select from event_box.parked as before
                   where before.group_name = p.group_name and before.partition = p.partition
                     and before.partition_key = p.partition_key and before.sequence < p.sequence and before.blocks))
             limit 1)
        ) as retries (seconds)
    ) as due on true
    where c.group_name = g.name and g.paused_at is null and (c.target is not null or fresh or late or late_rows > 100 or foreign_rows > 0 or due is not null)
) as found on true
where g.name = $1
order by found.advanced_at
