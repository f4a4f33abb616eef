-- What is parked in a claimed partition: in the first row whether a retry is due there, of a topic handled here; in the others from which
-- sequence on each of these keys waits.
select exists (
           select from (
               select partition_key, sequence from event_box.parked
               where group_name = $1 and partition = $2 and due_at <= clock_timestamp() and topic = any($3::text[])
               union all
               select partition_key, sequence from event_box.parked
               where group_name = $1 and partition = $2 and reason = 'no_handler' and topic = any($3::text[])
           ) as due
           where partition_key is null or not exists (
               select from event_box.parked as before
               where before.group_name = $1 and before.partition = $2 and before.partition_key = due.partition_key
                 and before.sequence < due.sequence and before.blocks)
       ) as "retries_due?",
       null::text as "key?", null::bigint as "sequence?"
union all
select null, key, first.sequence
from unnest($4::text[]) as key cross join lateral (
    select sequence from event_box.parked
    where group_name = $1 and partition = $2 and partition_key = key and blocks
    order by sequence
    limit 1
) as first
