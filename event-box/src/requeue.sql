-- Makes parked events due, with another payload where one is given. What waits behind another of its key, or for a process with a
-- handler, stays where it is.
with chosen as materialized (
    select p.partition, p.sequence, p.dead_at is not null as dead,
           p.dead_at is not null and not p.holds_key and p.partition_key is not null as gone_on,
           p.dead_at is not null or (p.reason <> 'no_handler' and (p.partition_key is null or not exists (
               select from event_box.parked as before
               where before.group_name = $1 and before.partition = p.partition and before.partition_key = p.partition_key
                 and before.sequence < p.sequence and before.blocks))) as ready
    from unnest($2::smallint[], $3::bigint[]) as place (partition, sequence)
    join event_box.parked as p on p.group_name = $1 and p.partition = place.partition and p.sequence = place.sequence
), changed as (
    update event_box.parked as p
    set dead_at = null, holds_key = false,
        attempts = case when dead then 0 else p.attempts end,
        deaths = case when dead then 0 else p.deaths end,
        due_at = case when ready then clock_timestamp() else p.due_at end,
        payload = coalesce($4::json, p.payload)
    from chosen
    where p.group_name = $1 and p.partition = chosen.partition and p.sequence = chosen.sequence and (ready or $4::json is not null)
    returning p.partition, p.sequence, p.topic, p.partition_key, ready, gone_on
), recorded as (
    insert into event_box.interventions (actor, action, group_name, sequence, event_id, topic, partition_key, detail)
    select coalesce($5, session_user::text), $6, $1, changed.sequence, e.id, changed.topic, changed.partition_key,
           case when gone_on then 'its key had gone on' end
    from changed
    left join event_box.events as e on e.partition = changed.partition and e.sequence = changed.sequence
    order by changed.sequence
)
select count(*) filter (where ready) as "events!", count(*) filter (where gone_on) as "out_of_order!" from changed
