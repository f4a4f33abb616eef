-- One batch of each claimed partition, in sequence order: late rows first, then fresh ones (docs/architecture.md, "The cursor").
-- The first rows, one a partition, carry what concerns its read as a whole; every other row is an event. Those of a partition stand together.
with own as materialized (
    -- The claim set the planner for this statement alone; handlers get their own settings back.
    select pg_current_xact_id() as x, pg_current_snapshot() as s,
           set_config('jit', ($4::text[])[1], true), set_config('plan_cache_mode', ($4::text[])[2], true),
           set_config('enable_bitmapscan', ($4::text[])[3], true), set_config('enable_seqscan', ($4::text[])[4], true)
), claimed as materialized (
    select partition, position, was, t, x, s,
           greatest(
               least(floor, position, (
                   select min(f) from unnest(array(select * from pg_snapshot_xip(was)), floors) as old (xid, f)
                   where pg_visible_in_snapshot(xid, t)
               )),
               least(reached, position)
           ) as low,
           pg_snapshot_xmax(s) < pg_snapshot_xmax(coalesce(target, was)) as foreign_log
    from (
        -- A pass goes on as of its target.
        select c.partition, c.position, c.snapshot::pg_snapshot as was, c.floors::bigint[] as floors, c.floor,
               c.target::pg_snapshot as target, coalesce(c.target::pg_snapshot, s) as t, c.reached, x, s
        from own, unnest($2::smallint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::bigint[])
            as c (partition, position, snapshot, floors, floor, target, reached)
        offset 0
    ) as c
), subscription as materialized (
    select topics, mode, paused_at is not null as paused from event_box.consumer_groups where name = $1
)
select partition as "partition!",
       t::text as "snapshot?",
       foreign_log as "foreign_log?",
       array[
           mode,
           case when paused then 'paused' end,
           case when exists (
               select from event_box.parked as p where p.group_name = $1 and p.partition = claimed.partition and p.blocks
           ) then 'parks' end
       ] as "state?: Vec<Option<String>>",
       null::bigint as "sequence?", null::uuid as "id?", null::text as "topic?", null::smallint as "version?",
       null::text as "partition_key?", null::json as "payload?: RawJson", null::json as "headers?: RawJson",
       -- Of payload and headers; null where the group does not read the event.
       null::integer as "bytes?", null::timestamptz as "emitted_at?: Timestamp"
from claimed, subscription
union all
select partition, null, foreign_row, null, sequence, id, topic, version, partition_key,
       -- What is large comes by a statement of its own, as far as the byte budget goes.
       case when bytes <= 2000 then payload end, case when bytes <= 2000 then headers end, bytes, emitted_at
from (
    select e.*, e.xid >= pg_snapshot_xmax(s) as foreign_row,
           case when topic = any(topics) and erased_at is null then pg_column_size(payload) + coalesce(pg_column_size(headers), 0) end as bytes
    from claimed as c cross join subscription cross join lateral (
        select * from event_box.events
        where partition = c.partition and sequence > low
          -- What this transaction emitted is delivered once, later. Any other row of this cluster that the statement sees lies below the
          -- snapshot's end: else the log is foreign.
          and xid <> x and (pg_visible_in_snapshot(xid, t) or xid >= pg_snapshot_xmax(s))
          and (sequence > position or not pg_visible_in_snapshot(xid, was))
        order by sequence
        limit $3::bigint
    ) as e
    offset 0
) as measured
