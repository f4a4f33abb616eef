//! The grants of docs/operations.md, as they stand there: enough for what they are for, and for nothing else.

mod delayed;

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use event_box::{
    Backoff, BoxError, Consumer, Context, Erasure, EventBox, Failure, LogError, Mode, PullBuilder, RunError, Selection,
    testing,
};
use event_box_tests::{Counted, Noted, Running, TestLog};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

/// Roles are the server's: each test makes its own.
struct Role {
    name: String,
    pool: PgPool,
}

impl Role {
    async fn new(log: &TestLog) -> Self {
        let name = format!("role_{}", Uuid::now_v7().simple());
        execute(&log.pool, format!("create role {name}")).await.unwrap();
        let become_role = format!("set role {name}");
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .after_connect(move |connection, _| {
                let become_role = AssertSqlSafe(become_role.clone());
                Box::pin(async move { sqlx::raw_sql(become_role).execute(connection).await.map(drop) })
            })
            .connect(log.url())
            .await
            .unwrap();
        Self { name, pool }
    }

    /// What docs/operations.md grants under this comment, to the one it calls so there.
    async fn granted(self, log: &TestLog, comment: &str, documented: &str) -> Self {
        let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let documentation = std::fs::read_to_string(documentation).unwrap();
        let (_, grants) = documentation.split_once(&format!("\n-- {comment}")).expect(comment);
        let (_, grants) = grants.split_once('\n').unwrap();
        let grants = grants.split_once("```").unwrap().0;
        let own = grants.replace(&format!(" to {documented};"), &format!(" to {};", self.name));
        assert!(!own.contains(&format!(" to {documented};")), "{own}");
        execute(&log.pool, own).await.unwrap();
        self
    }

    /// Where a statement of its own is refused for want of a privilege.
    async fn assert_refused(&self, statements: &[&str]) {
        for sql in statements {
            let mut tx = self.pool.begin().await.unwrap();
            let answer = sqlx::raw_sql(AssertSqlSafe((*sql).to_owned())).execute(&mut *tx).await;
            let error = answer.map(|_| panic!("`{sql}` is allowed")).unwrap_err();
            assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{sql}: {error}");
            tx.rollback().await.unwrap();
        }
    }

    async fn gone(self, log: &TestLog) {
        self.pool.close().await;
        execute(&log.pool, format!("drop owned by {0}; drop role {0}", self.name)).await.unwrap();
    }
}

async fn execute(pool: &PgPool, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop)
}

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// An error and its causes.
fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

#[tokio::test]
async fn an_emitting_role_can_do_that_and_nothing_else() {
    let log = TestLog::new().await;
    let role = Role::new(&log).await.granted(&log, "A role that emits.", "emitter").await;
    log.outbox.emit(&role.pool, &counted("one", 1)).await.unwrap();
    log.outbox.clone().notify(false).emit(&role.pool, &counted("quiet", 1)).await.unwrap();
    log.outbox.emit_all(&role.pool, [&counted("all", 1)]).await.unwrap();
    let mut connection = role.pool.acquire().await.unwrap();
    log.outbox.copy(&mut connection, [&counted("copy", 1)]).await.unwrap();
    sqlx::raw_sql("select event_box.emit('t', '{}', 'function')").execute(&mut *connection).await.unwrap();
    drop(connection);
    let keys: Vec<String> = sqlx::query_scalar("select partition_key from event_box.events order by sequence")
        .fetch_all(&log.pool)
        .await
        .unwrap();
    assert_eq!(keys, ["one", "quiet", "all", "copy", "function"]);
    let insert = |columns: &str, values: &str, overriding: &str| {
        format!(
            "insert into event_box.events (id, topic, payload, {columns}) {overriding} values (gen_random_uuid(), 't', '{{}}', {values})"
        )
    };
    role.assert_refused(&[
        &insert("xid", "'0'", ""),
        &insert("sequence", "1", "overriding system value"),
        &insert("emitted_at", "now()", ""),
        &insert("erased_at", "now()", ""),
        "insert into event_box.events (id, topic, payload) values (gen_random_uuid(), 't', '{}') returning sequence",
        "select payload from event_box.events",
        "select xid from event_box.events",
        "update event_box.events set xid = '0'",
        "delete from event_box.events",
        "truncate event_box.events",
        "select last_value from event_box.events_sequence_seq",
        "select nextval('event_box.events_sequence_seq')",
        "select setval('event_box.events_sequence_seq', 1)",
        "select from event_box.cursors",
        "select from event_box.cursors for update",
        "update event_box.cursors set position = 0",
        "insert into event_box.cursors (group_name, partition) values ('g', 0)",
        "select from event_box.consumer_groups",
        "delete from event_box.consumer_groups",
        "select from event_box.parked",
        "delete from event_box.parked",
        "select from event_box.starts",
        "select from event_box.interventions",
        "insert into event_box.interventions (actor, action) values ('me', 'nothing')",
        "select from event_box.migrations",
        "create table event_box.another ()",
    ])
    .await;
    role.gone(&log).await;
    log.close().await;
}

/// Its source says of what.
#[tokio::test]
async fn a_missing_grant_is_told_and_named() {
    let log = TestLog::new().await;
    let role = Role::new(&log).await;
    let told = chain(&log.outbox.emit(&role.pool, &counted("k", 1)).await.unwrap_err());
    assert!(told.contains("permission denied for schema event_box"), "{told}");
    execute(&log.pool, format!("grant usage on schema event_box to {}", role.name)).await.unwrap();
    let told = chain(&log.outbox.emit(&role.pool, &counted("k", 1)).await.unwrap_err());
    assert!(told.contains("permission denied for table events"), "{told}");

    let group = EventBox::from(&role.pool).group("g");
    let error = group.requeue(Selection::All).await.unwrap_err();
    let told = chain(&error);
    assert!(told.contains("docs/operations.md") && told.contains("permission denied for table parked"), "{told}");

    let consumer = || Consumer::builder(&role.pool, "g").on(handle).build().unwrap();
    let error = Running::start(consumer()).ended().await.unwrap_err();
    assert!(matches!(error, RunError::Log(LogError::Privilege { .. })), "{error:?}");
    // One that ran, and lost it.
    let role = role.granted(&log, "A role that consumes, or pulls.", "consumer").await;
    let consumer = Consumer::builder(&role.pool, "g").on(handle).build().unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    execute(&log.pool, format!("revoke update on event_box.cursors from {}", role.name)).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let error = running.ended().await.unwrap_err();
    let RunError::Log(error @ LogError::Privilege { .. }) = error else { panic!("{error:?}") };
    assert!(chain(&error).contains("permission denied for table cursors"), "{error:?}");
    role.gone(&log).await;
    log.close().await;
}

async fn handle(event: Counted, cx: &mut Context<'_>) -> Result<(), Failure> {
    if event.key == "rejected" {
        return Err(Failure::Reject("malformed".into()));
    }
    if event.key == "failing" && cx.attempt() == 1 {
        return Err("once".into());
    }
    sqlx::query("insert into effects values ($1)").bind(event.n).execute(cx).await?;
    Ok(())
}

fn consuming(pool: &PgPool) -> event_box::ConsumerBuilder {
    Consumer::builder(pool, "g").backoff(Backoff::fixed(Duration::from_millis(10))).on(handle)
}

/// Makes a group, adds a topic, handles, parks, retries, gives up, finds who died, expires and prunes; pulls.
#[tokio::test]
async fn a_consuming_role_can_do_that_and_nothing_else() {
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint)").await;
    let role = Role::new(&log).await.granted(&log, "A role that consumes, or pulls.", "consumer").await;
    execute(&log.pool, format!("grant insert on effects to {}", role.name)).await.unwrap();

    // From now on: reads more of the log than a group from its beginning.
    let _ = testing::drain(&consuming(&role.pool).from_now().build().unwrap()).await.unwrap();
    log.outbox.emit_all(&log.pool, &[counted("k", 1), counted("rejected", 2), counted("failing", 3)]).await.unwrap();

    let note = async |_: Noted, cx: &mut Context<'_>| {
        sqlx::query("insert into effects values (0)").execute(cx).await?;
        Ok::<_, BoxError>(())
    };
    let running = Running::start(consuming(&role.pool).on(note).dead_letter_retention(None).build().unwrap());
    log.outbox.emit(&log.pool, &Noted { text: String::new() }).delay(Duration::from_millis(1)).await.unwrap();
    log.wait_until("select count(*) from effects", 3).await;
    log.wait_until("select count(*) from event_box.parked where dead_at is not null", 1).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.interventions where action = 'add_topic'").await, 1);
    log.sql("update event_box.consumer_groups set seen_at = now() - interval '2 days'").await;

    // Upkeep comes first of all.
    let running = Running::start(
        consuming(&role.pool).dead_letter_retention(Duration::ZERO).retention(Duration::ZERO).build().unwrap(),
    );
    log.wait_until("select count(*) from event_box.interventions where action = 'expire'", 1).await;
    log.wait_until("select 1 - count(*) from event_box.events", 1).await;
    running.stop().await.unwrap();
    assert_eq!(
        log.number("select count(*) from event_box.consumer_groups where seen_at > now() - interval '1 day'").await,
        1
    );

    log.outbox.emit(&log.pool, &counted("k", 9)).await.unwrap();
    let pull = PullBuilder::new(&role.pool, "p").event::<Counted>().open().await.unwrap();
    let mut tx = role.pool.begin().await.unwrap();
    let mut batch = pull.batch(&mut tx, 10).await.unwrap();
    let event = batch.next().unwrap();
    batch.fail(&mut tx, event, "no").await.unwrap();
    tx.commit().await.unwrap();
    event_box::prune(&role.pool, Duration::ZERO).await.unwrap();

    // As handlers do that emit.
    log.outbox.emit(&role.pool, &counted("k", 10)).await.unwrap();

    role.assert_refused(&[
        "insert into event_box.events (xid, id, topic, payload) values ('0', gen_random_uuid(), 't', '{}')",
        "insert into event_box.events (id, topic, payload, emitted_at) values (gen_random_uuid(), 't', '{}', now())",
        "insert into event_box.delayed (due_at, id, topic, payload) values (now(), gen_random_uuid(), 't', '{}')",
        "update event_box.delayed set due_at = now()",
        "truncate event_box.delayed",
        "update event_box.events set payload = '{}'",
        "truncate event_box.events",
        "select setval('event_box.events_sequence_seq', 1)",
        "update event_box.consumer_groups set paused_at = now()",
        "update event_box.consumer_groups set mode = 'concurrent'",
        "delete from event_box.consumer_groups",
        "delete from event_box.cursors",
        "select from event_box.interventions",
        "update event_box.interventions set actor = 'another'",
        "delete from event_box.interventions",
        "delete from event_box.migrations",
        "create table event_box.another ()",
    ])
    .await;
    role.gone(&log).await;
    log.close().await;
}

/// A process that died in the middle of a batch: the next one notes what it begins.
#[tokio::test]
async fn a_consuming_role_finds_what_kills() {
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint)").await;
    let role = Role::new(&log).await.granted(&log, "A role that consumes, or pulls.", "consumer").await;
    execute(&log.pool, format!("grant insert on effects to {}", role.name)).await.unwrap();
    let _ = testing::drain(&consuming(&role.pool).build().unwrap()).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut died = role.pool.begin().await.unwrap();
    sqlx::raw_sql("update event_box.cursors set advanced_at = now()").execute(&mut *died).await.unwrap();
    died.rollback().await.unwrap();
    let noting = async |event: Counted, cx: &mut Context<'_, PgPool>| -> Result<(), BoxError> {
        let starts: i64 = sqlx::query_scalar("select count(*) from event_box.starts").fetch_one(cx.state()).await?;
        sqlx::query("insert into effects values ($1)").bind(event.n + 10 * starts).execute(cx).await?;
        Ok(())
    };
    let running =
        Running::start(Consumer::builder(&role.pool, "g").state(log.pool.clone()).on(noting).build().unwrap());
    log.wait_until("select coalesce(sum(n), 0)::bigint from effects", 11).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.starts").await, 0);
    role.gone(&log).await;
    log.close().await;
}

#[tokio::test]
async fn a_pruning_role_can_do_that_and_nothing_else() {
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint)").await;
    log.outbox.emit_all(&log.pool, &[counted("k", 1), counted("rejected", 2)]).await.unwrap();
    let _ = testing::drain(&consuming(&log.pool).build().unwrap()).await.unwrap();
    let role = Role::new(&log).await.granted(&log, "A role that prunes.", "pruner").await;
    let pruned = event_box::prune(&role.pool, Duration::ZERO).await.unwrap();
    assert_eq!(pruned.events, 1, "the other is parked");
    role.assert_refused(&[
        "select event_box.emit('t', '{}')",
        "update event_box.events set payload = '{}'",
        "update event_box.cursors set position = 0",
        "delete from event_box.parked",
        "select from event_box.interventions",
    ])
    .await;
    role.gone(&log).await;
    log.close().await;
}

/// Everything that `ConsumerGroup` and `EventBox` offer for groups and events.
#[tokio::test]
async fn an_operating_role_can_do_that_and_nothing_else() {
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint)").await;
    log.outbox.emit_all(&log.pool, &[counted("rejected", 1), counted("rejected", 2), counted("k", 3)]).await.unwrap();
    let _ = testing::drain(&consuming(&log.pool).build().unwrap()).await.unwrap();
    let role = Role::new(&log).await.granted(&log, "A role that operates groups.", "operator").await;
    let handle = EventBox::from(&role.pool);
    let group = handle.group("g");

    log.outbox.emit(&log.pool, &counted("k", 4)).delay(Duration::from_secs(60)).await.unwrap();
    assert_eq!(handle.delayed().await.unwrap().events, 1);
    assert_eq!(handle.groups().await.unwrap().len(), 1);
    let dead = group.dead_letters().await.unwrap();
    assert_eq!(dead.len(), 2);
    assert_eq!(group.requeue(Selection::Event(dead[0].sequence)).await.unwrap().events, 1);
    assert_eq!(group.edit(dead[1].sequence, "{}").await.unwrap().events, 1);
    assert_eq!(group.skip(Selection::Event(dead[0].sequence)).await.unwrap(), 1);
    group.pause().await.unwrap();
    group.resume().await.unwrap();
    group.set_mode(Mode::AllOrNothing).await.unwrap();
    group.add_topic("t").await.unwrap();
    group.remove_topic("t").await.unwrap();
    group.replay_from(2).await.unwrap();
    group.replay_since(SystemTime::UNIX_EPOCH).await.unwrap();
    group.replay_all().await.unwrap();
    group.forward_to_now().await.unwrap();
    group.forward_and_clear_parked().await.unwrap();
    let id = log.outbox.emit(&log.pool, &counted("person", 1)).await.unwrap();
    let sequence = handle.sequence_of(id).await.unwrap().unwrap();
    assert!(matches!(handle.event(sequence).erase().await.unwrap(), Erasure::Erased { .. }));

    // What others' sessions do is PostgreSQL's to tell.
    let mut holder = log.pool.begin().await.unwrap();
    let hold = "select pg_backend_pid() from event_box.cursors where partition = 7 for update";
    let pid: i32 = sqlx::query_scalar(hold).fetch_one(&mut *holder).await.unwrap();
    let holder_of_7 = async || group.health().await.unwrap().partitions[7].held_by.clone().unwrap();
    let unseen = holder_of_7().await;
    assert_eq!((unseen.pid, unseen.state, unseen.transaction_started), (pid, None, None));
    let role = role.granted(&log, "To see what who holds a partition does.", "operator").await;
    let seen = holder_of_7().await;
    assert_eq!((seen.pid, seen.state.as_deref()), (pid, Some("idle in transaction")));
    assert!(seen.transaction_started.is_some());
    holder.rollback().await.unwrap();

    assert!(!handle.interventions(100).await.unwrap().is_empty());
    role.assert_refused(&[
        "select event_box.emit('t', '{}')",
        "update event_box.events set xid = '0'",
        "update event_box.events set topic = 't'",
        "delete from event_box.events",
        "select setval('event_box.events_sequence_seq', 1)",
        "insert into event_box.cursors (group_name, partition) values ('g', 0)",
        "delete from event_box.cursors",
        "update event_box.interventions set actor = 'another'",
        "delete from event_box.interventions",
        "update event_box.migrations set success = false",
        "delete from event_box.delayed",
        "create table event_box.another ()",
    ])
    .await;
    assert!(group.remove().await.unwrap());
    role.gone(&log).await;
    log.close().await;
}

#[tokio::test]
async fn migrate_and_adopt_are_the_owners() {
    let log = TestLog::new().await;
    let role = Role::new(&log).await.granted(&log, "A role that operates groups.", "operator").await;
    let role = role.granted(&log, "A role that consumes, or pulls.", "consumer").await;
    let error = event_box::adopt(&role.pool).await.unwrap_err();
    assert!(matches!(error, LogError::Privilege { .. }), "{error:?}");
    let told = chain(&error);
    assert!(told.contains("`adopt` are for the owner of the tables"), "{told}");
    assert!(told.contains("permission denied for table events"), "{told}");
    let told = chain(&event_box::migrate(&role.pool).await.unwrap_err());
    assert!(told.contains("permission denied for schema event_box"), "{told}");
    let other = EventBox::in_schema(role.pool.clone(), event_box::Schema::new("other").unwrap());
    let told = chain(&event_box::migrate(&other).await.unwrap_err());
    assert!(told.contains("permission denied for database"), "{told}");

    // As the documentation says: a role that may create the schema owns what it makes, and needs no grant.
    let database: String = sqlx::query_scalar("select current_database()").fetch_one(&log.pool).await.unwrap();
    execute(&log.pool, format!("grant create on database {database} to {}", role.name)).await.unwrap();
    event_box::migrate(&other).await.unwrap();
    event_box::migrate(&other).await.unwrap();
    event_box::adopt(&other).await.unwrap();
    other.outbox().emit(&role.pool, &counted("k", 1)).await.unwrap();
    role.gone(&log).await;
    log.close().await;
}
