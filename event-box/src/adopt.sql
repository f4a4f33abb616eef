-- Parks for each group what it is owed: what lies up to its position and was not given to it, by the meaning of its cursors as they were in
-- the other cluster. The first of a key, where nothing of the key is parked before it, and events without a key are due at once.
insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, due_at)
select group_name, partition, sequence, topic, partition_key,
       case when head then 'snoozed' else 'waiting' end,
       case when head then clock_timestamp() end
from (
    select c.group_name, e.partition, e.sequence, e.topic, e.partition_key,
           e.partition_key is null or (
               row_number() over (partition by c.group_name, e.partition_key order by e.sequence) = 1
               and not exists (
                   select from event_box.parked as before
                   where before.group_name = c.group_name and before.partition = e.partition
                     and before.partition_key = e.partition_key and before.sequence < e.sequence and before.blocks)
           ) as head
    from event_box.cursors as c
    join event_box.consumer_groups as g on g.name = c.group_name
    join event_box.events as e on e.partition = c.partition and e.sequence <= c.position
    where e.topic = any(g.topics)
      and e.erased_at is null
      and not (pg_visible_in_snapshot(e.xid, c.snapshot)
               or (c.target is not null and e.sequence <= c.reached and pg_visible_in_snapshot(e.xid, c.target)))
      and not exists (
          select from event_box.parked as p
          where p.group_name = c.group_name and p.partition = e.partition and p.sequence = e.sequence)
) as owed
