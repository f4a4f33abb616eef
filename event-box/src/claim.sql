-- Locks the cursors of a group's partitions, as far as nobody else holds them. What the transaction must know from before it has an id is read
-- first: the row to be locked is joined to it.
with asked as materialized (
    -- The planner does not see the values: it would plan anew for each claim.
    select $1::text as name, unnest(array(select unnest($2::smallint[]))) as number
), opening as materialized (
    -- By the function: a plain select reads the sequence's page without its lock, and may see the value up to 32 ahead that nextval puts
    -- there for the moment in which it logs it. A mark above what was handed out lost events.
    select coalesce(pg_sequence_last_value('event_box.events_sequence_seq'), 0) as last_value,
           pg_current_xact_id_if_assigned() is not null as bound,
           array[current_setting('jit'), current_setting('plan_cache_mode'), current_setting('enable_bitmapscan'),
                 current_setting('enable_seqscan')] as planning
    where current_setting('transaction_isolation') = 'read committed'
), locked as materialized (
    select cursor.*, last_value, bound, planning, next
    from asked cross join opening
    cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) as snapshot
    cross join lateral (
        -- With xmax as it was before the lock.
        select partition, position, cursors.snapshot, floors, floor, mark, mark_xid, target, reached, careful, xmax::text::bigint as low
        from event_box.cursors
        -- Asks for what was read first, so that it is.
        where group_name = name and partition = number and last_value >= 0
        for update skip locked
    ) as cursor
), last as materialized (
    -- Every orderly end of a claim is a commit, so an xmax that was rolled back is a claim that was cut off. It has 32 bits of an id, and
    -- may be a multixact: whatever cannot be judged counts as no death.
    select *, next - ((next - low) & 4294967295) as last_xid from locked
)
select partition, position, snapshot::text as "snapshot!", floors, floor, mark, mark_xid::text as "mark_xid!", target::text as target,
       reached, careful, last_value as "last_value!", bound as "bound!", planning as "planning!",
       case when low >= 3 and last_xid between 3 and next - 1 then
           case when pg_xact_status(last_xid::text::xid8) = 'aborted' then last_xid end
       end as "aborted?",
       pg_backend_pid() as "backend!", pg_current_xact_id()::text as "xid!",
       (select set_config('jit', 'off', true)) as jit, (select set_config('plan_cache_mode', 'force_generic_plan', true)) as plan_cache_mode,
       (select set_config('enable_bitmapscan', 'off', true)) as enable_bitmapscan,
       (select set_config('enable_seqscan', 'off', true)) as enable_seqscan
from last
