-- One page of a group's parked events in sequence order. Planned for its parameters: dead letters have an index of their own.
select page.sequence as "sequence!", e.id as "id?", page.topic as "topic!", e.version as "version?", page.partition_key as "partition_key?",
       page.state as "state!", page.attempts as "attempts!", page.deaths as "deaths!", page.error as "error?",
       page.parked_at as "parked_at!: Timestamp", page.first_failed_at as "first_failed_at?: Timestamp",
       page.last_failed_at as "last_failed_at?: Timestamp", page.due_at as "due_at?: Timestamp", page.dead_at as "dead_at?: Timestamp",
       page.edited as "edited!"
from (
    select p.*, state.state, p.payload is not null as edited
    from event_box.parked as p
    cross join lateral (
        select case
            when p.dead_at is not null and p.holds_key then 'dead_holding_key'
            when p.dead_at is not null then 'dead'
            when p.reason = 'no_handler' then 'no_handler'
            when p.due_at is null or exists (
                select from event_box.parked as before
                where before.group_name = p.group_name and before.partition = p.partition and before.partition_key = p.partition_key
                  and before.sequence < p.sequence and before.blocks) then 'waiting'
            when p.reason = 'snoozed' then 'snoozed'
            else 'retrying'
        end as state offset 0
    ) as state
    where p.group_name = $1 and p.sequence > $2
      and ($3::text[] is null or state.state = any($3))
      and (not $4::boolean or p.dead_at is not null)
      and ($5::text is null or p.topic = $5)
      and ($6::text is null or p.partition_key = $6)
    order by p.sequence
    limit $7
) as page
left join event_box.events as e on e.partition = page.partition and e.sequence = page.sequence
order by page.sequence
