-- For each partition of a group: the first event emitted since a time, as far as this statement sees, and above which sequence all lie
-- that it does not see. (The floors of all transactions that it does not see, not only of those that ended: they may, before the lock.)
with now as materialized (select pg_current_snapshot() as s),
first as (
    select partition, min(sequence) as sequence from event_box.events where emitted_at >= $2::timestamptz group by partition
)
select c.partition,
       first.sequence as "first?",
       least(c.floor, (
           select min(f) from unnest(array(select * from pg_snapshot_xip(c.snapshot)), c.floors) as open (xid, f)
           where not pg_visible_in_snapshot(xid, s)
       )) as "bound!",
       s::text as "snapshot!",
       to_char($2::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "since!"
from event_box.cursors as c cross join now left join first using (partition)
where c.group_name = $1
