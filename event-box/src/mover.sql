-- Appends to the log what is due ($3, or now), in due order, at most so many rows ($1) and bytes ($2): what does not fit is for the next move.
-- A row that somebody else is cancelling is passed over. Deleting takes the transaction's xid before the log's sequence is drawn. It goes by
-- ctid: by key, PostgreSQL 18 was found to plan a scan of all that wait.
with due as materialized (
    select ctid as tid, due_at, ordinal, pg_column_size(payload) + coalesce(pg_column_size(headers), 0) as bytes
    from event_box.delayed
    where due_at <= coalesce($3, statement_timestamp())
    order by due_at, ordinal
    limit $1
    for update skip locked
), fitting as (
    select tid
    from (select tid, sum(bytes) over (order by due_at, ordinal) - bytes as bytes_before from due) as measured
    where bytes_before < $2::bigint
), taken as (
    delete from event_box.delayed
    where ctid = any (array(select tid from fitting))
    returning due_at, ordinal, id, topic, version, partition_key, payload, headers
), announced as materialized (
    select pg_notify($4, '*' || $5::text || ' ' || case when min(topic) = max(topic) then min(topic) else '*' end)
    from taken
    where $5 is not null
    having count(*) > 0
)
insert into event_box.events (id, topic, version, partition_key, payload, headers)
select id, topic, version, partition_key, payload, headers
from taken left join announced on true
order by due_at, ordinal
