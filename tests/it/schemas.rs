//! Logs of several schemas in one database: nothing of one is seen in another, nor in the default schema.

use std::time::{Duration, SystemTime};

use event_box::{
    Backoff, BoxError, Consumer, Context, DecodeError, Erasure, Event, EventBox, LogError, Mode, Outbox, ParkedFilter,
    PullBuilder, RunError, Schema, Selection, testing,
};
use event_box_tests::{Counted, Noted, PATIENCE, Running, Seen, TestLog, seen_by};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

const FIRST: &str = "Weird schema";
/// 48 bytes.
const SECOND: &str = r#"it's "Odd" – event_box.événements, 48 bytes!"#;
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(10 * 60);

fn quoted(schema: &Schema) -> String {
    format!("\"{}\"", schema.name().replace('"', "\"\""))
}

/// SQL of the test's own, with `{}` for the schema.
fn over(schema: &Schema, sql: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.replace("{}", &quoted(schema)))
}

async fn number(log: &EventBox, sql: &str) -> i64 {
    sqlx::query_scalar(over(log.schema(), sql)).fetch_one(log.pool()).await.expect(sql)
}

async fn wait_until(log: &EventBox, sql: &str, at_least: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while number(log, sql).await < at_least {
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {} instead of {at_least}", number(log, sql).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// Two logs beside the default one, which nobody is to touch.
async fn two() -> (TestLog, EventBox, EventBox) {
    assert_eq!(SECOND.len(), 48);
    let log = TestLog::empty().await;
    let unused = PgPoolOptions::new().max_connections(1).connect(log.url()).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&unused).await.unwrap();
    event_box::migrate(&unused).await.unwrap();
    unused.close().await;
    log.sql(Seen::TABLE).await;
    let open = async |name: &str| {
        let schema = Schema::new(name).unwrap();
        let opened = EventBox::in_schema(log.pool.clone(), schema);
        event_box::migrate(&opened).await.unwrap();
        event_box::migrate(&opened).await.unwrap();
        opened
    };
    let (first, second) = (open(FIRST).await, open(SECOND).await);
    let gone = format!("select 1 - count(*) from pg_stat_activity where pid = {pid}");
    wait_until(&first, &gone, 1).await;
    log.sql("select pg_stat_reset()").await;
    (log, first, second)
}

/// Ends every session, so that what they did is counted, and asks whether the default schema's tables were read or written.
async fn close_untouched(log: TestLog) {
    log.pool.close().await;
    let pool = PgPool::connect(log.url()).await.unwrap();
    let touched = "select coalesce(string_agg(relname, ', '), '') from (
                       select relname, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) + n_tup_ins + n_tup_upd + n_tup_del as touches
                       from pg_stat_user_tables where schemaname = 'event_box'
                       union all select relname, blks_read + blks_hit from pg_statio_user_sequences where schemaname = 'event_box'
                   ) as relations where touches > 0";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    while sqlx::query_scalar::<_, i64>(others).fetch_one(&pool).await.unwrap() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "sessions stay open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let touched: String = sqlx::query_scalar(touched).fetch_one(&pool).await.unwrap();
    assert_eq!(touched, "", "statements that went to the default schema");
    pool.close().await;
    log.close().await;
}

/// Writes what it sees, fails `bad` for good and the rest once, emits a note into its own log.
async fn handle(event: Counted, cx: &mut Context<'_, Schema>) -> Result<(), BoxError> {
    if event.key == "bad" || (event.n == 2 && cx.attempt() == 1) {
        return Err("refused".into());
    }
    let schema = cx.state().clone();
    Seen::note(schema.name(), &event, cx).await?;
    Outbox::new().schema(schema).emit(&mut *cx, &Noted { text: event.key }).await?;
    Ok(())
}

fn consumer(log: &EventBox, group: &str) -> Consumer {
    Consumer::builder(log, group)
        .state(log.schema().clone())
        .on(handle)
        .workers(2)
        .max_attempts(2)
        .backoff(Backoff::fixed(Duration::from_millis(10)))
        .retention(None)
        .build()
        .unwrap()
}

/// Of a topic that the value chooses.
struct Chosen(&'static str, i64);

impl Event for Chosen {
    const TOPICS: &'static [&'static str] = &["test.counted", "test.noted"];

    fn topic(&self) -> &'static str {
        self.0
    }

    fn partition_key(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some("k".into())
    }

    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&counted("k", self.1))
    }

    fn decode(_: &str, _: i16, _: &[u8]) -> Result<Self, DecodeError> {
        unreachable!("it is never delivered")
    }
}

#[tokio::test]
async fn every_way_to_emit_writes_to_its_own_log() {
    let (log, first, second) = two().await;
    let outbox = first.outbox();
    let mut tx = log.pool.begin().await.unwrap();
    outbox.emit(&mut *tx, &counted("k", 1)).await.unwrap();
    outbox.clone().notify(false).emit(&mut *tx, &counted("k", 2)).await.unwrap();
    outbox.emit_all(&mut *tx, &[counted("k", 3)]).await.unwrap();
    let mixed = [Chosen("test.counted", 4), Chosen("test.noted", 1), Chosen("test.counted", 5)];
    outbox.emit_all(&mut *tx, &mixed).await.unwrap();
    outbox.copy(&mut tx, &[counted("k", 6)]).await.unwrap();
    let call = "select {}.emit('test.counted', '{\"key\": \"k\", \"n\": 7}', 'k')";
    sqlx::query(over(first.schema(), call)).execute(&mut *tx).await.unwrap();

    let emitted = testing::Log::in_schema(first.schema().clone());
    assert_eq!(emitted.emitted::<Counted>(&mut *tx).await, (1..=7).map(|n| counted("k", n)).collect::<Vec<_>>());
    emitted.assert_emitted(&mut *tx, &counted("k", 6)).await;
    emitted.assert_emitted_matching(&mut *tx, |event: &Counted| event.n == 7).await;
    emitted.assert_not_emitted(&mut *tx, |event: &Counted| event.n > 7).await;
    let other = testing::Log::in_schema(second.schema().clone());
    other.assert_not_emitted(&mut *tx, |_: &Counted| true).await;
    assert_eq!(other.emitted::<Counted>(&mut *tx).await, []);
    tx.commit().await.unwrap();
    close_untouched(log).await;
}

/// The poll would come minutes later, and the half-minutely look too late.
#[tokio::test]
async fn a_consumer_is_woken_by_its_own_log_alone() {
    let (log, first, second) = two().await;
    let mut heard = sqlx::postgres::PgListener::connect_with(&log.pool).await.unwrap();
    heard.listen_all([FIRST, SECOND, "event_box"]).await.unwrap();
    let mut running = Vec::new();
    for log in [&first, &second] {
        let consumer = Consumer::builder(log, "g")
            .on(async |event: Counted, cx: &mut Context<'_>| Seen::note("m", &event, cx).await)
            .poll_interval(NEVER)
            .build()
            .unwrap();
        running.push(Running::start(consumer));
    }
    let listening = "select count(*) from pg_stat_activity where datname = current_database() and query like 'LISTEN%' and state = 'idle'";
    log.wait_until(listening, 3).await;
    // Whatever the start had to look at is done: another event wakes them only by its notification.
    for (log, n) in [(&first, 1), (&second, 2), (&first, 3), (&second, 4)] {
        let emitted = std::time::Instant::now();
        log.outbox().emit(log.pool(), &counted(log.schema().name(), n)).await.unwrap();
        event_box_tests::wait_until_seen(log.pool(), "g", n).await;
        assert!(emitted.elapsed() < Duration::from_secs(25), "{:?}", emitted.elapsed());
        let notification = heard.recv().await.unwrap();
        assert_eq!(notification.channel(), log.schema().name());
        assert!(heard.next_buffered().is_none());
    }
    for running in running {
        running.stop().await.unwrap();
    }
    let seen = [(FIRST.to_owned(), vec![1, 3]), (SECOND.to_owned(), vec![2, 4])];
    assert_eq!(seen_by(&log.pool, "g").await, seen);
    drop(heard);
    close_untouched(log).await;
}

/// Groups of one name, keys of one name: retries, dead letters and what handlers emit stay in their log.
#[tokio::test]
async fn groups_of_one_name_deliver_park_and_retry_apart() {
    let (log, first, second) = two().await;
    let running = [&first, &second].map(|log| Running::start(consumer(log, "g")));
    for (log, events) in [(&first, 1..=3), (&second, 11..=12)] {
        let events: Vec<_> = events.map(|n| counted(log.schema().name(), n)).collect();
        log.outbox().emit_all(log.pool(), &events).await.unwrap();
    }
    first.outbox().emit(first.pool(), &counted("bad", 1)).await.unwrap();
    wait_until(&first, "select count(*) from {}.parked where dead_at is not null", 1).await;
    wait_until(&first, "select count(*) from {}.events where topic = 'test.noted'", 3).await;
    wait_until(&second, "select count(*) from {}.events where topic = 'test.noted'", 2).await;
    for running in running {
        running.stop().await.unwrap();
    }
    let seen = [(FIRST.to_owned(), vec![1, 2, 3]), (SECOND.to_owned(), vec![11, 12])];
    assert_eq!(seen_by(&log.pool, "g").await, seen);
    assert_eq!(number(&second, "select count(*) from {}.parked").await, 0);
    assert_eq!(
        log.number("select count(*) from seen where member <> key").await,
        0,
        "handled by the other log's consumer"
    );
    close_untouched(log).await;
}

/// All that a log holds.
async fn fingerprint(log: &EventBox) -> String {
    let rows = "select md5(concat(
        (select jsonb_agg(e order by sequence) from {}.events as e), (select jsonb_agg(g order by name) from {}.consumer_groups as g),
        (select jsonb_agg(c order by group_name, partition) from {}.cursors as c),
        (select jsonb_agg(p order by group_name, sequence) from {}.parked as p),
        (select jsonb_agg(s order by group_name, sequence) from {}.starts as s),
        (select jsonb_agg(i order by id) from {}.interventions as i), (select last_value from {}.events_sequence_seq)))";
    sqlx::query_scalar(over(log.schema(), rows)).fetch_one(log.pool()).await.unwrap()
}

/// Does it to the first log; answers with what it said, once it is sure that the first changed and the second did not.
async fn changes_only<T>(first: &EventBox, second: &EventBox, what: &str, done: impl Future<Output = T>) -> T {
    let before = (fingerprint(first).await, fingerprint(second).await);
    let answer = done.await;
    assert_ne!(before.0, fingerprint(first).await, "{what} did nothing");
    assert_eq!(before.1, fingerprint(second).await, "{what} reached another log");
    answer
}

#[tokio::test]
async fn what_an_operator_does_to_one_log_stays_there() {
    let (log, first, second) = two().await;
    for log in [&first, &second] {
        let mut events = vec![counted("bad", 1), counted("bad", 2), counted("good", 1)];
        events.extend((if log.schema().name() == FIRST { 1..=1 } else { 1..=3 }).map(|n| counted("more", 2 * n - 1)));
        log.outbox().emit_all(log.pool(), &events).await.unwrap();
        let drained = testing::drain(&consumer(log, "g")).await.unwrap();
        assert_eq!(drained.dead_letters.len(), 2);
        log.outbox().emit(log.pool(), &counted("pending", 1)).await.unwrap();
    }
    let group = first.group("g").by("ann");
    let (one, other) = (&first, &second);
    let dead = group.dead_letters().await.unwrap();
    assert_eq!((dead.len(), group.health().await.unwrap().pending()), (2, 1));
    assert_eq!(group.parked(&ParkedFilter::new()).await.unwrap().len(), 2);
    assert_eq!(first.groups().await.unwrap().len(), 1);
    let requeued = group.requeue(Selection::Event(dead[0].sequence));
    let _ = changes_only(one, other, "requeue", requeued).await.unwrap();
    let _ =
        changes_only(one, other, "edit", group.edit(dead[1].sequence, r#"{"key": "mended", "n": 1}"#)).await.unwrap();
    changes_only(one, other, "skip", group.skip(Selection::Event(dead[0].sequence))).await.unwrap();
    let drained = changes_only(one, other, "drain", async { testing::drain(&consumer(one, "g")).await }).await.unwrap();
    assert_eq!(drained.handled, 2, "the edited one and the pending one");
    changes_only(one, other, "pause", group.pause()).await.unwrap();
    changes_only(one, other, "resume", group.resume()).await.unwrap();
    changes_only(one, other, "set_mode", group.set_mode(Mode::AllOrNothing)).await.unwrap();
    changes_only(one, other, "set_mode", group.set_mode(Mode::Transactional)).await.unwrap();
    changes_only(one, other, "add_topic", group.add_topic("t")).await.unwrap();
    changes_only(one, other, "remove_topic", group.remove_topic("t")).await.unwrap();
    changes_only(one, other, "replay_all", group.replay_all()).await.unwrap();
    changes_only(one, other, "replay_from", group.replay_from(2)).await.unwrap();
    changes_only(one, other, "replay_since", group.replay_since(SystemTime::UNIX_EPOCH)).await.unwrap();
    changes_only(one, other, "forward", group.forward_to_now()).await.unwrap();
    changes_only(one, other, "forward", group.forward_and_clear_parked()).await.unwrap();
    let id = first.outbox().emit(first.pool(), &counted("person", 1)).await.unwrap();
    let sequence = first.sequence_of(id).await.unwrap().unwrap();
    assert_eq!(second.sequence_of(id).await.unwrap(), None);
    let erased = changes_only(one, other, "erase", async { first.event(sequence).by("ann").erase().await }).await;
    assert!(matches!(erased.unwrap(), Erasure::Erased { .. }));
    let adopted = changes_only(one, other, "adopt", event_box::adopt(&first)).await.unwrap();
    assert!(adopted.events > 0);
    let _ = changes_only(one, other, "drain", async { testing::drain(&consumer(one, "g")).await }).await.unwrap();
    let pruned = changes_only(one, other, "prune", event_box::prune(&first, Duration::ZERO)).await.unwrap();
    assert_eq!(pruned.events, adopted.events, "all that is delivered or erased");
    assert_eq!(first.interventions(100).await.unwrap().iter().filter(|record| record.actor == "ann").count(), 15);
    assert!(changes_only(one, other, "remove", group.remove()).await.unwrap());
    assert_eq!((first.groups().await.unwrap().len(), second.groups().await.unwrap().len()), (0, 1));
    assert_eq!(second.interventions(100).await.unwrap(), []);
    assert_eq!(second.group("g").dead_letters().await.unwrap().len(), 2);
    close_untouched(log).await;
}

#[tokio::test]
async fn a_pull_takes_from_its_own_log() {
    let (log, first, second) = two().await;
    for (log, n) in [(&first, 1), (&second, 2)] {
        log.outbox().emit(log.pool(), &counted("k", n)).await.unwrap();
        log.outbox().emit(log.pool(), &counted("k", n + 10)).await.unwrap();
    }
    let pull = PullBuilder::new(&first, "g").event::<Counted>().max_attempts(1).open().await.unwrap();
    let pulled = changes_only(&first, &second, "a pull", async {
        tokio::time::timeout(PATIENCE, pull.wait()).await.expect("in time").unwrap();
        let mut tx = log.pool.begin().await.unwrap();
        let mut batch = pull.batch(&mut tx, 10).await.unwrap();
        let failed = batch.next().unwrap();
        batch.fail(&mut tx, failed, "no").await.unwrap();
        let pulled: Vec<_> = batch.map(|event| event.decode::<Counted>().unwrap().n).collect();
        assert_eq!(pull.batch(&mut tx, 10).await.unwrap().len(), 0);
        tx.commit().await.unwrap();
        pulled
    });
    assert_eq!(pulled.await, [11]);
    assert_eq!(first.group("g").dead_letters().await.unwrap().len(), 1);
    assert_eq!(second.groups().await.unwrap(), []);
    drop(pull);
    close_untouched(log).await;
}

/// What excludes retention, replay and new groups of one log keeps nobody waiting in another.
#[tokio::test]
async fn the_maintenance_lock_is_a_logs_own() {
    let (log, first, second) = two().await;
    for log in [&first, &second] {
        let _ = testing::drain(&consumer(log, "g")).await.unwrap();
    }
    let mut held = log.pool.begin().await.unwrap();
    let lock = over(first.schema(), "select pg_advisory_xact_lock(hashtextextended('{}.maintenance', 0))");
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    for log in [second.clone(), EventBox::new(log.pool.clone())] {
        event_box::prune(&log, Duration::ZERO).await.unwrap();
    }
    second.group("g").replay_all().await.unwrap();
    let pruning = tokio::spawn(event_box::prune(first.clone(), Duration::ZERO));
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                 and database = (select oid from pg_database where datname = current_database())";
    log.wait_until(waits, 1).await;
    held.commit().await.unwrap();
    pruning.await.unwrap().unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_schema_without_a_log_is_named() {
    let log = TestLog::new().await;
    let absent = EventBox::in_schema(log.pool.clone(), Schema::new(FIRST).unwrap());
    let error = absent.outbox().emit(&log.pool, &counted("k", 1)).await.unwrap_err().to_string();
    assert!(error.starts_with("schema `Weird schema` holds no event log: run `event_box::migrate(&pool)`"), "{error}");
    let error = Running::start(consumer(&absent, "g")).ended().await.unwrap_err();
    assert!(matches!(&error, RunError::Log(LogError::NotMigrated { schema }) if schema == FIRST), "{error:?}");
    log.close().await;
}

/// Each log's mover moves its own, and is held up by its own alone.
#[tokio::test]
async fn delayed_events_are_moved_into_their_own_log() {
    let (log, first, second) = two().await;
    let soon = Duration::from_millis(20);
    let delayed = async |log: &EventBox, n| {
        log.outbox().emit(log.pool(), &counted(log.schema().name(), n)).delay(soon).await.unwrap()
    };
    for log in [&first, &second] {
        delayed(log, 1).await;
        let id = log.outbox().emit(log.pool(), &counted("cancelled", 1)).delay(NEVER).await.unwrap();
        let call = "select {}.emit_at(now() + interval '1 hour', 'test.counted', '{\"key\": \"late\", \"n\": 1}')";
        sqlx::query(over(log.schema(), call)).execute(log.pool()).await.unwrap();
        let asserted = testing::Log::in_schema(log.schema().clone());
        asserted.assert_delayed(log.pool(), &counted("cancelled", 1), NEVER).await;
        assert_eq!(log.outbox().cancel(log.pool(), id).await.unwrap(), event_box::Cancellation::Cancelled);
        assert_eq!(asserted.delayed::<Counted>(log.pool()).await.len(), 2);
    }
    // As one that moves.
    let mut moving = first.pool().begin().await.unwrap();
    let key = format!("{}.delayed", quoted(first.schema()));
    let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))").bind(key);
    lock.execute(&mut *moving).await.unwrap();
    let running = [&first, &second].map(|log| Running::start(consumer(log, "g")));
    for n in [1, 2] {
        event_box_tests::wait_until_seen(&log.pool, "g", n).await;
        delayed(&second, n + 1).await;
    }
    event_box_tests::wait_until_seen(&log.pool, "g", 3).await;
    assert_eq!(number(&first, "select count(*) from {}.events").await, 0);
    moving.rollback().await.unwrap();
    event_box_tests::wait_until_seen(&log.pool, "g", 4).await;
    for running in running {
        running.stop().await.unwrap();
    }
    let seen = [(FIRST.to_owned(), vec![1]), (SECOND.to_owned(), vec![1, 2, 3])];
    assert_eq!(seen_by(&log.pool, "g").await, seen);
    assert_eq!(first.delayed().await.unwrap().events, 1);
    close_untouched(log).await;
}
