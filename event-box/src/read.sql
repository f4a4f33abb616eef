-- One batch of a claimed partition, in sequence order: late rows first, then fresh ones (docs/architecture.md, "The cursor").
-- The first row carries what concerns the whole read; every other row is an event.
with own as materialized (
    -- The claim forced generic plans and switched jit off for this statement alone; handlers get their own settings back.
    select pg_current_xact_id() as x, pg_current_snapshot() as s,
           set_config('jit', $11, true), set_config('plan_cache_mode', $12, true)
), seen as materialized (
    -- A pass goes on as of its target. Otherwise as of now, our own transaction counted as open: what it emits is delivered once, later.
    select x, s, coalesce($9::text::pg_snapshot, case when pg_visible_in_snapshot(x, s) then (
        least(x, pg_snapshot_xmin(s))::text || ':' || pg_snapshot_xmax(s)::text || ':' ||
        (select string_agg(y::text, ',' order by y) from (select pg_snapshot_xip(s) as y union select x) as open)
    )::pg_snapshot else s end) as t
    from own
), low as materialized (
    select greatest(
        least($8::bigint, $5::bigint, (
            select min(f) from unnest(array(select * from pg_snapshot_xip($6::text::pg_snapshot)), $7::bigint[]) as old (xid, f), seen
            where pg_visible_in_snapshot(xid, t)
        )),
        least($10::bigint, $5::bigint)
    ) as low
), subscription as materialized (
    select topics, mode, paused_at is not null as paused,
           exists (select from event_box.parked where group_name = $1 and partition = $2 and blocks) as parks
    from event_box.consumer_groups where name = $1
)
select t::text as "snapshot?",
       x::text as "own_xid?",
       pg_snapshot_xmax(s) < pg_snapshot_xmax(coalesce($9::text, $6::text)::pg_snapshot) as "foreign_log?",
       parks and exists (
           select from (
               select partition_key, sequence from event_box.parked
               where group_name = $1 and partition = $2 and due_at <= clock_timestamp() and topic = any($13::text[])
               union all
               select partition_key, sequence from event_box.parked
               where group_name = $1 and partition = $2 and reason = 'no_handler' and topic = any($13::text[])
           ) as due
           where partition_key is null or not exists (
               select from event_box.parked as before
               where before.group_name = $1 and before.partition = $2 and before.partition_key = due.partition_key
                 and before.sequence < due.sequence and before.blocks)
       ) as "retries_due?",
       mode as "mode?", paused as "paused?",
       null::bigint as "sequence?", null::uuid as "id?", null::text as "topic?", null::smallint as "version?",
       null::text as "partition_key?", null::json as "payload?: RawJson", null::json as "headers?: RawJson",
       null::timestamptz as "emitted_at?: Timestamp", null::boolean as "subscribed?", null::boolean as "behind?"
from seen, subscription
union all
select null, null, foreign_row, null, null, null, sequence, id, topic, version, partition_key,
       -- Rows beyond the byte budget come without payload and headers: the batch ends before the first of them, and knows that it is there.
       case when subscribed and coalesce(bytes_before, 0) < $4::bigint then payload end,
       case when subscribed and coalesce(bytes_before, 0) < $4::bigint then headers end, emitted_at, subscribed, behind
from (
    select e.*, e.xid >= pg_snapshot_xmax(s) as foreign_row,
           case when parks and e.partition_key is not null then exists (
               select from event_box.parked as p
               where p.group_name = $1 and p.partition = $2 and p.partition_key = e.partition_key
                 and p.sequence < e.sequence and p.blocks) else false end as behind
    from seen cross join low cross join subscription cross join lateral (
        select *, topic = any(topics) and erased_at is null as subscribed,
               sum(case when topic = any(topics) then pg_column_size(payload) + coalesce(pg_column_size(headers), 0) else 0 end)
                   over (order by sequence rows between unbounded preceding and 1 preceding) as bytes_before
        from (
            select * from event_box.events
            where partition = $2 and sequence > low
              -- A row of this cluster that the statement sees, other than our own, lies below the snapshot's end: else the log is foreign.
              and (pg_visible_in_snapshot(xid, t) or (xid >= pg_snapshot_xmax(s) and xid <> x))
              and (sequence > $5::bigint or not pg_visible_in_snapshot(xid, $6::text::pg_snapshot))
            order by sequence
            limit $3::bigint
        ) as page
    ) as e
) as measured
