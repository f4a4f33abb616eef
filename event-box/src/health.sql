-- How far behind a group is, a row a partition: index ranges of at most 10,000 late and 10,000 fresh rows each, without a lock.
with now as materialized (
    select pg_current_snapshot() as s
), holders as materialized (
    -- Where privileges hide a session, its start and state are null.
    select backend_xid, pid, application_name, xact_start, state from pg_stat_activity where backend_xid is not null
)
select c.partition as "partition!", c.position as "position!", c.advanced_at as "advanced_at!: Timestamp",
       late.pending + fresh.pending as "pending!",
       greatest(late.examined, fresh.examined) = 10000 as "more!",
       extract(epoch from clock_timestamp() - least(late.oldest, fresh.oldest))::float8 as "oldest_seconds?",
       holders.pid as "pid?", holders.application_name as "application_name?", holders.xact_start as "xact_start?: Timestamp",
       holders.state as "state?"
from event_box.consumer_groups as g
join event_box.cursors as c on c.group_name = g.name
cross join now
cross join lateral (
    -- As in look.sql, but without `reached`: what the pass under way left out below it is pending too.
    select least(c.floor, c.position, (
        select min(f) from unnest(array(select * from pg_snapshot_xip(c.snapshot)), c.floors) as old (xid, f)
        where pg_visible_in_snapshot(xid, s)
    )) as low offset 0
) as low
cross join lateral (
    select count(*) as examined, count(*) filter (where pending) as pending, min(emitted_at) filter (where pending) as oldest
    from (
        select emitted_at,
               topic = any(g.topics) and erased_at is null and not pg_visible_in_snapshot(xid, c.snapshot)
                   and not (c.target is not null and sequence <= c.reached and pg_visible_in_snapshot(xid, c.target)) as pending
        from event_box.events
        where low < c.position and partition = c.partition and sequence > low and sequence <= c.position
        order by sequence limit 10000
    ) as e
) as late
cross join lateral (
    select count(*) as examined, count(*) filter (where pending) as pending, min(emitted_at) filter (where pending) as oldest
    from (
        select emitted_at, topic = any(g.topics) and erased_at is null as pending
        from event_box.events
        where partition = c.partition and sequence > c.position
        order by sequence limit 10000
    ) as e
) as fresh
-- The cursor's row as we see it: whoever locks or changes it stands in its xmax.
left join holders on holders.backend_xid = c.xmax
where g.name = $1
order by c.partition
