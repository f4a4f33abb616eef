-- Examines one chunk of the old end of a partition and removes from it what may go. A row may go where every group has been given it
-- (by the meaning of a cursor, not by age alone: an old row may have become visible a moment ago), it is older than the retention time,
-- and no parked event names it. A group without all its cursors counts as one that has been given nothing; without any group nothing
-- goes.
with chunk as materialized (
    select sequence, xid, emitted_at < now() - $4::float8 * interval '1 second' as old
    from event_box.events
    -- Beyond the group that is furthest behind nothing can go: not looked at, however much of it is old.
    where partition = $1 and sequence > $2 and sequence <= (
        select min(coalesce(c.position, 0)) from event_box.consumer_groups as g
        left join event_box.cursors as c on c.group_name = g.name and c.partition = $1)
    order by sequence
    limit $3
), doomed as materialized (
    select sequence from chunk
    where old
      and not exists (
          select from event_box.consumer_groups as g
          left join event_box.cursors as c on c.group_name = g.name and c.partition = $1
          where c.position is null
             or not (chunk.sequence <= c.position and (
                 pg_visible_in_snapshot(chunk.xid, c.snapshot)
                 or (c.target is not null and chunk.sequence <= c.reached and pg_visible_in_snapshot(chunk.xid, c.target)))))
      and not exists (
          select from event_box.consumer_groups as g
          join event_box.parked as p on p.group_name = g.name and p.partition = $1 and p.sequence = chunk.sequence)
), deleted as (
    delete from event_box.events as e using doomed
    where e.partition = $1 and e.sequence = doomed.sequence
    returning 1
)
select (select count(*) from deleted) as "deleted!",
       count(*) as "examined!",
       max(sequence) as reached,
       coalesce(bool_or(not old), false) as "young!"
from chunk
