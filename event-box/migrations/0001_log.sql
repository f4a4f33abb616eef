-- What an event may be. Domains, because a table's own checks are parsed anew by every statement that writes to it: a third of an emit.
create domain event_box.topic as text constraint topic_length check (octet_length(value) between 1 and 255);
create domain event_box.version as smallint constraint version_positive check (value > 0);
create domain event_box.partition_key as text constraint partition_key_length check (octet_length(value) between 1 and 512);
create domain event_box.headers as json constraint headers_object check (json_typeof(value) = 'object');

-- The log: appended to, never updated. Column order matters: defaults are evaluated in it, and the delivery algorithm rests on a
-- transaction taking its xid before its first sequence (docs/architecture.md, "The cursor").
create table event_box.events (
    xid           xid8        not null default pg_current_xact_id(),
    sequence      bigint      not null generated always as identity,
    -- Where the key lives; events without a key are spread evenly. 64 partitions, for the life of the log.
    partition     smallint    not null generated always as
                              ((hashtextextended(coalesce(partition_key, sequence::text), 0) & 63)) stored,
    id            uuid        not null,
    topic         event_box.topic not null,
    version       event_box.version not null default 1,
    partition_key event_box.partition_key,
    -- json, not jsonb: the bytes stay as they were emitted.
    payload       json        not null,
    headers       event_box.headers,
    -- Stable, not volatile: a volatile default makes COPY insert row by row.
    emitted_at    timestamptz not null default statement_timestamp(),
    -- Set where a person's data was erased from payload and headers: the event is passed over from then on.
    erased_at     timestamptz,
    primary key (partition, sequence)
);

-- Uncompressed out of line: their size is known without reading them, which is what keeps a batch within its byte budget.
alter table event_box.events alter column payload set storage external, alter column headers set storage external;

-- Events that are not due yet. What is due is moved into the log, by one process at a time (docs/architecture.md, "Delayed events").
create table event_box.delayed (
    due_at        timestamptz not null constraint due_at_finite check (isfinite(due_at)),
    -- Keeps the order of emission where events are due at the same time.
    ordinal       bigint      not null generated always as identity,
    id            uuid        not null,
    topic         event_box.topic not null,
    version       event_box.version not null default 1,
    partition_key event_box.partition_key,
    payload       json        not null,
    headers       event_box.headers,
    emitted_at    timestamptz not null default statement_timestamp(),
    primary key (due_at, ordinal)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

create index delayed_id on event_box.delayed (id);

-- As the log's: a move keeps within its byte budget without reading them.
alter table event_box.delayed alter column payload set storage external, alter column headers set storage external;

create table event_box.consumer_groups (
    name       text        primary key constraint name_length check (octet_length(name) between 1 and 255),
    topics     text[]      not null,
    mode       text        not null default 'transactional'
                           constraint mode_known check (mode in ('transactional', 'all_or_nothing', 'concurrent')),
    -- Since when nothing is delivered to it.
    paused_at  timestamptz,
    created_at timestamptz not null default now(),
    seen_at    timestamptz not null default now()
);

-- Which events a group has been given: see docs/architecture.md, "The cursor".
create table event_box.cursors (
    group_name  text        not null references event_box.consumer_groups (name) on delete cascade,
    partition   smallint    not null constraint partition_range check (partition between 0 and 63),
    position    bigint      not null default 0,
    snapshot    pg_snapshot not null default '1:1:',
    floors      bigint[]    not null default '{}',
    floor       bigint      not null default 0,
    mark        bigint      not null default 0,
    mark_xid    xid8        not null default '0',
    target      pg_snapshot,
    reached     bigint      not null default 0,
    -- Events that still go one a transaction, because a process died with their batch in hand.
    careful     integer     not null default 0,
    advanced_at timestamptz not null default now(),
    primary key (group_name, partition)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Events that a group could not handle yet, and those of their keys that wait behind them. Only the holder of the partition's cursor
-- touches its rows.
create table event_box.parked (
    group_name      text        not null,
    partition       smallint    not null,
    sequence        bigint      not null,
    topic           text        not null,
    partition_key   text,
    reason          text        not null constraint reason_known check (reason in ('failed', 'waiting', 'snoozed', 'no_handler')),
    -- Failed attempts so far.
    attempts        integer     not null default 0,
    -- Processes that died of it.
    deaths          integer     not null default 0,
    error           text,
    parked_at       timestamptz not null default now(),
    first_failed_at timestamptz,
    last_failed_at  timestamptz,
    -- When it is tried next; null while it waits behind another of its key or for a process with a handler, and once it is dead.
    due_at          timestamptz,
    dead_at         timestamptz,
    -- Dead, and its key waits until a person decides.
    holds_key       boolean     not null default false,
    -- Later events of its key wait behind it.
    blocks          boolean     not null generated always as (dead_at is null or holds_key) stored,
    -- What a person put in the place of the log's.
    payload         json,
    primary key (group_name, partition, sequence)
);

-- As the log's.
alter table event_box.parked alter column payload set storage external;

create index parked_key on event_box.parked (group_name, partition, partition_key, sequence) where blocks;
create index parked_due on event_box.parked (group_name, partition, due_at) where due_at is not null;
create index parked_no_handler on event_box.parked (group_name, partition, topic) where reason = 'no_handler';
create index parked_dead on event_box.parked (group_name, dead_at) where dead_at is not null;

-- Events that were begun alone, after a process had died with others in hand: what stands here unfinished names the event that kills.
create table event_box.starts (
    group_name text     not null,
    partition  smallint not null,
    sequence   bigint   not null,
    -- The process that began it.
    instance   uuid     not null,
    -- When another process first found it unfinished: one that lives and lost its connection has some seconds to take it back.
    noticed_at timestamptz,
    primary key (group_name, partition, sequence)
);

-- What people, and event-box in their stead, did to groups and events.
create table event_box.interventions (
    id            bigint      generated always as identity primary key,
    at            timestamptz not null default clock_timestamp(),
    actor         text        not null,
    action        text        not null,
    group_name    text,
    sequence      bigint,
    event_id      uuid,
    topic         text,
    partition_key text,
    detail        text
);

-- RFC 9562, UUIDv7: 48 bits of Unix milliseconds, then version 7 over the random bits of a version 4.
create function event_box.new_event_id() returns uuid
language sql volatile
return encode(set_bit(set_bit(overlay(
    uuid_send(gen_random_uuid())
    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
    from 1 for 6), 52, 1), 53, 1), 'hex')::uuid;

-- Emits from triggers, psql and other languages. Returns the event's id: the one given, or a new UUIDv7.
create function event_box.emit(
    topic         text,
    payload       json,
    partition_key text     default null,
    headers       json     default null,
    version       smallint default 1,
    id            uuid     default null
) returns uuid
language plpgsql
as $function$
declare
    event_id uuid := coalesce(emit.id, event_box.new_event_id());
begin
    insert into event_box.events (id, topic, version, partition_key, payload, headers)
    values (event_id, emit.topic, emit.version, emit.partition_key, emit.payload, emit.headers);
    return event_id;
end
$function$;

-- As `emit`, to be delivered from `due_at` on.
create function event_box.emit_at(
    due_at        timestamptz,
    topic         text,
    payload       json,
    partition_key text     default null,
    headers       json     default null,
    version       smallint default 1,
    id            uuid     default null
) returns uuid
language plpgsql
as $function$
declare
    event_id uuid := coalesce(emit_at.id, event_box.new_event_id());
begin
    insert into event_box.delayed (due_at, id, topic, version, partition_key, payload, headers)
    values (emit_at.due_at, event_id, emit_at.topic, emit_at.version, emit_at.partition_key, emit_at.payload, emit_at.headers);
    return event_id;
end
$function$;
