use std::time::{Duration, SystemTime};

use event_box::{BoxError, Cancellation, Consumer, Context, EmitError, EventBox, testing};
use event_box_tests::{Counted, Noted, Running, Seen, TestLog, seen_by, wait_until_seen};
use sqlx::{Acquire, PgPool};
use uuid::Uuid;

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const SOON: Duration = Duration::from_millis(300);
pub(crate) const DELAYED: &str = "select count(*) from event_box.delayed";
pub(crate) const LOGGED: &str = "select count(*) from event_box.events";

pub(crate) async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

pub(crate) fn start(log: impl Into<EventBox>) -> Running {
    Running::start(Consumer::builder(log, "g").on(note).build().unwrap())
}

pub(crate) fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

pub(crate) async fn log_with_seen() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log
}

/// The numbers of the log's events, in its order.
pub(crate) async fn numbers(pool: &PgPool) -> Vec<i64> {
    let numbers = "select (payload ->> 'n')::bigint from event_box.events order by sequence";
    sqlx::query_scalar(numbers).fetch_all(pool).await.unwrap()
}

/// How late each came into the log, by the database's clock, when all that were emitted have.
#[tokio::test]
async fn an_event_is_delivered_when_it_is_due_within_a_second_and_not_before() {
    let log = log_with_seen().await;
    log.sql("create table dues (id uuid primary key, due_at timestamptz not null)").await;
    let running = start(&log.pool);
    // The mover has looked by then, and found nothing that it could wait for.
    log.outbox.emit(&log.pool, &counted("at once", 1)).await.unwrap();
    wait_until_seen(&log.pool, "g", 1).await;
    for n in 1..=10 {
        let (event, mut tx) = (counted("k", n), log.pool.begin().await.unwrap());
        let id = match n % 2 {
            0 => log.outbox.emit(&mut *tx, &event).delay(Duration::from_millis(250 * n as u64)).await,
            _ => {
                let time = SystemTime::now() + Duration::from_millis(250 * n as u64);
                log.outbox.emit(&mut *tx, &event).due_at(time).await
            }
        };
        let keep = "insert into dues select id, due_at from event_box.delayed where id = $1";
        assert_eq!(sqlx::query(keep).bind(id.unwrap()).execute(&mut *tx).await.unwrap().rows_affected(), 1);
        tx.commit().await.unwrap();
    }
    wait_until_seen(&log.pool, "g", 11).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await[1], ("k".to_owned(), (1..=10).collect()));
    let late: Vec<f64> = sqlx::query_scalar(
        "select extract(epoch from emitted_at - due_at)::float8 as late from event_box.events join dues using (id) order by late",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    println!("late by {late:?} s");
    assert_eq!((late.len(), log.number(DELAYED).await), (10, 0));
    // On a machine that is busy with other things one may come later.
    assert!(late[0] >= 0.0 && late[5] < 1.0 && late[9] < 20.0, "{late:?}");
    log.close().await;
}

#[tokio::test]
async fn no_delay_is_an_ordinary_emit_and_the_later_of_two_calls_wins() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &counted("k", 1)).delay(Duration::ZERO).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 2)).due_at(SystemTime::now() + HOUR).delay(Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&log.pool).await, [1, 2]);
    let due = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let id = log.outbox.emit(&log.pool, &counted("k", 3)).delay(HOUR).due_at(due).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 4)).due_at(due).delay(HOUR).await.unwrap();
    testing::assert_delayed(&log.pool, &counted("k", 4), HOUR).await;
    assert_eq!(testing::delayed(&log.pool).await[1], (counted("k", 3), due));

    let handle = EventBox::from(&log.pool);
    let delayed = handle.delayed().await.unwrap();
    assert_eq!(delayed.events, 2);
    let next = delayed.next_due_at.unwrap();
    assert!(next > SystemTime::now() + HOUR / 2 && next < SystemTime::now() + 2 * HOUR, "{next:?}");
    log.sql("delete from event_box.delayed where due_at < now() + interval '1 day'").await;
    assert_eq!(handle.delayed().await.unwrap().next_due_at, Some(due));
    assert_eq!(log.outbox.cancel(&log.pool, id).await.unwrap(), Cancellation::Cancelled);
    let delayed = handle.delayed().await.unwrap();
    assert_eq!((delayed.events, delayed.next_due_at), (0, None));
    log.close().await;
}

/// Everything that an emit says of its event is kept until then.
#[tokio::test]
async fn what_is_moved_is_what_was_emitted() {
    let log = log_with_seen().await;
    let (now, later) = (Uuid::now_v7(), Uuid::now_v7());
    let outbox = log.outbox.clone().header("tenant", "acme");
    let event = counted("own", 1);
    outbox.emit(&log.pool, &event).id(now).header("trace", "1").partition_key("another").await.unwrap();
    outbox.emit(&log.pool, &event).id(later).header("trace", "1").partition_key("another").delay(SOON).await.unwrap();
    let running = start(&log.pool);
    wait_until_seen(&log.pool, "g", 2).await;
    running.stop().await.unwrap();
    type Row = (Uuid, i16, String, i16, String, String, String);
    let rows: Vec<Row> = sqlx::query_as(
        "select id, partition, topic, version, partition_key, payload::text, headers::text from event_box.events order by sequence",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    let [mut first, mut second] = rows.try_into().unwrap();
    assert_eq!((first.0, second.0), (now, later));
    (first.0, second.0) = Default::default();
    assert_eq!(first, second);
    log.close().await;
}

#[tokio::test]
async fn what_fell_due_while_no_process_ran_is_moved_when_one_starts() {
    let log = log_with_seen().await;
    log.outbox.emit(&log.pool, &counted("k", 1)).delay(Duration::from_millis(20)).await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 2)).delay(HOUR).await.unwrap();
    log.wait_until("select count(*) from event_box.delayed where due_at <= clock_timestamp()", 1).await;
    assert_eq!((log.number(LOGGED).await, log.number(DELAYED).await), (0, 2));
    for n in [1, 2] {
        let running = start(&log.pool);
        wait_until_seen(&log.pool, "g", n).await;
        running.stop().await.unwrap();
        // In the place of an hour.
        log.sql("update event_box.delayed set due_at = now()").await;
    }
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2])]);
    log.close().await;
}

/// By when they became due; where that is the same, as they were emitted. Over several moves, by rows and by bytes.
#[tokio::test]
async fn the_log_has_them_in_the_order_of_their_due_times() {
    let log = TestLog::new().await;
    let past = SystemTime::now() - HOUR;
    let mut tx = log.pool.begin().await.unwrap();
    let mut expected = Vec::new();
    for n in 0..2_500 {
        let minute = n * 7_919 % 59;
        let due = past + Duration::from_secs(minute as u64);
        // In no order: it is not what keeps that of equal due times.
        let id = Uuid::from_u128((n as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        log.outbox.emit(&mut *tx, &counted(&format!("k{n}"), n)).id(id).due_at(due).await.unwrap();
        expected.push((minute, n));
    }
    tx.commit().await.unwrap();
    expected.sort();
    let running = start(&log.pool);
    log.wait_until(LOGGED, 2_500).await;
    let expected: Vec<_> = expected.into_iter().map(|(_, n)| n).collect();
    assert_eq!(numbers(&log.pool).await, expected);
    assert_eq!(log.number("select count(distinct xid::text) from event_box.events").await, 3, "1,000 a move");

    let outbox = log.outbox.clone().max_payload_bytes(4 << 20);
    let mut tx = log.pool.begin().await.unwrap();
    for i in 0..5 {
        let text = "x".repeat((3 << 20) + i);
        outbox.emit(&mut *tx, &Noted { text }).due_at(past).await.unwrap();
    }
    tx.commit().await.unwrap();
    log.wait_until("select count(*) from event_box.events where topic = 'test.noted'", 5).await;
    running.stop().await.unwrap();
    let sizes = "select array_agg(octet_length(payload::text) - 3 * 1048576 order by sequence) from event_box.events
                 where topic = 'test.noted' group by xid order by min(sequence)";
    let sizes: Vec<Vec<i32>> = sqlx::query_scalar(sizes).fetch_all(&log.pool).await.unwrap();
    assert_eq!(sizes, [vec![11, 12, 13], vec![14, 15]], "8 MiB a move");
    log.close().await;
}

#[tokio::test]
async fn a_rollback_takes_a_delayed_event_along_and_so_does_a_savepoints() {
    let log = log_with_seen().await;
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &counted("kept", 1)).delay(SOON).await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    log.outbox.emit(&mut *savepoint, &counted("in a savepoint", 1)).delay(SOON).await.unwrap();
    savepoint.rollback().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    log.outbox.emit(&mut *savepoint, &counted("kept in a savepoint", 1)).delay(SOON).await.unwrap();
    savepoint.commit().await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &counted("rolled back", 1)).delay(SOON).await.unwrap();
    tx.rollback().await.unwrap();
    // What is due before its transaction commits is moved then.
    let mut open = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *open, &counted("open", 1)).delay(SOON).await.unwrap();
    let running = start(&log.pool);
    wait_until_seen(&log.pool, "g", 2).await;
    open.commit().await.unwrap();
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    let keys: Vec<String> = sqlx::query_scalar("select partition_key from event_box.events order by sequence")
        .fetch_all(&log.pool)
        .await
        .unwrap();
    assert_eq!(keys, ["kept", "kept in a savepoint", "open"]);
    log.close().await;
}

/// Found before anything is sent: the transaction goes on.
#[tokio::test]
async fn a_time_that_postgresql_cannot_hold_is_refused_before_anything_is_sent() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    let event = counted("k", 1);
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000 * 31_556_952);
    let long_ago = SystemTime::UNIX_EPOCH - Duration::from_secs(7_000 * 31_556_952);
    for refused in [
        log.outbox.emit(&mut *tx, &event).delay(Duration::MAX).await,
        log.outbox.emit(&mut *tx, &event).due_at(far).await,
        log.outbox.emit(&mut *tx, &event).due_at(long_ago).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, EmitError::DueTime { topic: "test.counted" }), "{error:?}");
        let said = "the `test.counted` event is due at a time that PostgreSQL cannot hold: use one from 4713 BC to 294276 AD, or a shorter delay";
        assert_eq!(error.to_string(), said);
    }
    // At the edges of what it holds; nobody waits for ever because of one.
    let last = SystemTime::UNIX_EPOCH + Duration::from_micros(9_223_371_331_199_999_999 + 946_684_800_000_000);
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800) - Duration::from_secs(211_813_488_000);
    log.outbox.emit(&mut *tx, &counted("k", 2)).delay(Duration::from_secs(290_000 * 31_556_952)).await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 3)).due_at(last).await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 4)).due_at(first).await.unwrap();
    tx.commit().await.unwrap();
    let running = start(&log.pool);
    log.wait_until(LOGGED, 1).await;
    running.stop().await.unwrap();
    assert_eq!((numbers(&log.pool).await, log.number(DELAYED).await), (vec![4], 2));
    for never in ["infinity", "-infinity"] {
        let infinite = sqlx::query("select event_box.emit_at($1::text::timestamptz, 't', '{}')").bind(never);
        let error = infinite.execute(&log.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().constraint(), Some("due_at_finite"), "{error:?}");
    }
    log.close().await;
}

/// A handler emits a delayed event with its other writes, or with none of them.
#[tokio::test]
async fn what_a_handler_emits_with_a_delay_shares_its_fate() {
    let log = log_with_seen().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if event.n < 3 {
                let next = counted(&event.key, event.n + 1);
                event_box::Outbox::new().emit(&mut *cx, &next).delay(Duration::from_millis(5)).await?;
            }
            if cx.attempt() == 1 {
                return Err("once".into());
            }
            Ok(Seen::note("m", &event, cx).await?)
        })
        .backoff(event_box::Backoff::fixed(Duration::from_millis(1)));
    let running = Running::start(consumer.build().unwrap());
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3])]);
    assert_eq!((log.number(LOGGED).await, log.number(DELAYED).await), (3, 0));
    log.close().await;
}
