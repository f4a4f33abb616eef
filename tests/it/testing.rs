use std::time::{Duration, SystemTime};

use event_box::{Backoff, BoxError, Cancellation, Consumer, Context, Failure, Outbox, testing};
use event_box_tests::{Counted, Noted, TestLog};
use futures_util::FutureExt;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// What an assertion panics with.
async fn message(assertion: impl Future<Output = ()>) -> String {
    let panic = std::panic::AssertUnwindSafe(assertion).catch_unwind().await.expect_err("it does not hold");
    *panic.downcast::<String>().expect("a message")
}

#[tokio::test]
async fn assertions_see_an_open_transactions_own_events_and_others_do_not() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 1)).await.unwrap();
    testing::assert_emitted(&mut *tx, &counted("k", 1)).await;
    testing::assert_emitted_matching(&mut *tx, |event: &Counted| event.n == 1).await;
    testing::assert_not_emitted(&mut *tx, |event: &Counted| event.n == 2).await;
    assert_eq!(testing::emitted::<Counted>(&mut *tx).await, [counted("k", 1)]);
    assert_eq!(testing::emitted::<Counted>(&log.pool).await, []);
    testing::assert_not_emitted(&log.pool, |_: &Counted| true).await;
    tx.rollback().await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_failed_assertion_shows_the_difference_to_the_nearest() {
    let log = TestLog::new().await;
    let said = message(testing::assert_emitted(&log.pool, &counted("k", 7))).await;
    assert!(said.starts_with("no such Counted was emitted; none at all is visible"), "{said}");
    for (key, n) in [("k", 1), ("far away", 99)] {
        log.outbox.emit(&log.pool, &counted(key, n)).await.unwrap();
    }
    log.outbox.emit(&log.pool, &Noted { text: "k".to_owned() }).await.unwrap();
    let said = message(testing::assert_emitted(&log.pool, &counted("k", 7))).await;
    assert!(said.starts_with("no such Counted was emitted; 2 others are visible"), "{said}");
    assert!(said.contains("--- emitted, the nearest\n+++ expected"), "{said}");
    assert!(said.contains("-  \"n\": 1\n") && said.contains("+  \"n\": 7\n"), "{said}");
    assert!(said.contains("   \"key\": \"k\""), "the nearest is the one of the same key: {said}");
    let said = message(testing::assert_emitted_matching(&log.pool, |event: &Counted| event.n > 100)).await;
    assert!(said.contains("no Counted that matches") && said.contains("\"n\": 99"), "{said}");
    let said = message(testing::assert_not_emitted(&log.pool, |event: &Counted| event.n > 50)).await;
    assert!(said.contains("should not have been emitted") && !said.contains("\"n\": 1\n"), "{said}");
    // Another key, or the same bytes in another order of fields.
    log.outbox.emit(&log.pool, &counted("k", 8)).partition_key("another").await.unwrap();
    let said = message(testing::assert_emitted(&log.pool, &counted("k", 8))).await;
    assert!(said.contains("-partition key: another\n+partition key: k\n"), "{said}");
    log.sql("select event_box.emit('test.counted', '{\"n\": 9, \"key\": \"k\"}', 'k')").await;
    testing::assert_emitted(&log.pool, &counted("k", 9)).await;
    log.close().await;
}

/// Emits the next until 3; fails twice; snoozes; gives up on `bad`.
async fn chain(event: Counted, cx: &mut Context<'_>) -> Result<(), Failure> {
    if event.key == "bad" {
        return Err("never".into());
    }
    if event.n == 2 && cx.attempt() < 3 {
        return Err(format!("attempt {}", cx.attempt()).into());
    }
    if event.n < 3 {
        Outbox::new().emit(&mut *cx, &counted(&event.key, event.n + 1)).await?;
    }
    Ok(())
}

/// A day of backoff goes by in no time; what handlers emit is delivered too.
#[tokio::test]
async fn a_drain_goes_on_until_nothing_is_left_without_waiting() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(chain)
        .backoff(Backoff::fixed(Duration::from_secs(24 * 60 * 60)))
        .max_attempts(4)
        .build()
        .unwrap();
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, drained.failures.len()), (0, 0));
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    log.outbox.emit(&log.pool, &counted("bad", 1)).await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &counted("open", 1)).await.unwrap();
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!(drained.handled, 3, "1, 2 and 3 of one key, and nothing of an open transaction");
    let mut failures = drained.failures.clone();
    failures.sort();
    assert_eq!(failures, ["attempt 1", "attempt 2", "never", "never", "never", "never"]);
    let dead: Vec<_> = drained.dead_letters.iter().map(|letter| letter.partition_key.as_deref()).collect();
    assert_eq!(dead, [Some("bad")]);
    tx.commit().await.unwrap();
    assert_eq!(testing::drain(&consumer).await.unwrap().handled, 3);
    log.close().await;
}

#[tokio::test]
async fn a_drain_ends_where_a_handler_says_that_something_is_down() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, _: &mut Context<'_>| match event.n {
            2 => Err(Failure::Unavailable("down".into())),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    for n in 1..=3 {
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, drained.unavailable.as_deref()), (1, Some("down")));
    log.close().await;
}

/// Time-outs and constraints that fail at the commit are found as they are in a running consumer.
#[tokio::test]
async fn a_drain_finds_what_costs_a_batch_its_connection() {
    let log = TestLog::new().await;
    log.sql(
        "create table parents (id bigint primary key); insert into parents values (1), (3);
             create table effects (n bigint references parents deferrable initially deferred)",
    )
    .await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if event.n == 4 {
                std::future::pending::<()>().await;
            }
            sqlx::query("insert into effects values ($1)").bind(event.n).execute(cx).await?;
            Ok(())
        })
        .handler_timeout(Duration::from_secs(1))
        .max_attempts(2)
        .build()
        .unwrap();
    for n in 1..=4 {
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!(drained.dead_letters.len(), 2, "{drained:?}");
    assert_eq!(log.number("select sum(n)::bigint from effects").await, 1 + 3);
    log.close().await;
}

/// It would never come to an end.
#[tokio::test]
async fn a_drain_leaves_what_is_always_snoozed() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, _: &mut Context<'_>| match event.n {
            1 => Err(Failure::Snooze(Duration::from_secs(3600))),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    for (key, n) in [("a", 1), ("b", 2)] {
        log.outbox.emit(&log.pool, &counted(key, n)).await.unwrap();
    }
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, drained.failures.len()), (1, 0));
    assert_eq!(log.number("select count(*) from event_box.parked where reason = 'snoozed'").await, 1);
    log.close().await;
}

/// In the order of the due times, each after what came of those before; what does not concern the group is moved too.
#[tokio::test]
async fn a_drain_goes_from_due_time_to_due_time_without_waiting() {
    let log = TestLog::new().await;
    log.sql("create table order_of (at bigserial, key text not null)").await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if event.key == "day 2" && cx.attempt() == 1 {
                return Err("tried again before the next is due".into());
            }
            if event.key == "day 1" {
                Outbox::new().emit(&mut *cx, &counted("day 3, from a handler", 1)).delay(2 * DAY).await?;
                Outbox::new().emit(&mut *cx, &counted("day 1, at once", 1)).await?;
            }
            sqlx::query("insert into order_of (key) values ($1)").bind(event.key).execute(cx).await?;
            Ok(())
        })
        .build()
        .unwrap();
    let began = std::time::Instant::now();
    for (key, days) in [("day 9", 9), ("day 2", 2), ("day 5", 5), ("day 1", 1), ("day 9, later", 9)] {
        log.outbox.emit(&log.pool, &counted(key, 1)).delay(days * DAY).await.unwrap();
    }
    log.outbox.emit(&log.pool, &Noted { text: "of another group's".to_owned() }).delay(7 * DAY).await.unwrap();
    log.outbox.emit(&log.pool, &counted("now", 1)).await.unwrap();
    let mut open = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *open, &counted("open", 1)).delay(DAY).await.unwrap();
    let cancelled = log.outbox.emit(&log.pool, &counted("being cancelled", 1)).delay(DAY).await.unwrap();
    assert_eq!(log.outbox.cancel(&mut *open, cancelled).await.unwrap(), Cancellation::Cancelled);
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, drained.failures.len()), (8, 1));
    let keys: Vec<String> =
        sqlx::query_scalar("select key from order_of order by at").fetch_all(&log.pool).await.unwrap();
    let expected =
        ["now", "day 1", "day 1, at once", "day 2", "day 3, from a handler", "day 5", "day 9", "day 9, later"];
    assert_eq!(keys, expected);
    testing::assert_emitted(&log.pool, &Noted { text: "of another group's".to_owned() }).await;
    open.commit().await.unwrap();
    assert_eq!(testing::drain(&consumer).await.unwrap().handled, 1);
    assert!(began.elapsed() < DAY / 100);
    log.close().await;
}

/// It would never come to an end; what was there before is not counted against it.
#[tokio::test]
async fn a_drain_ends_where_a_handler_emits_its_own_event_for_ever() {
    let log = TestLog::new().await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            Outbox::new().emit(&mut *cx, &event).delay(DAY).await?;
            Ok(())
        })
        .on(async |_: Noted, _: &mut Context<'_>| Ok::<_, BoxError>(()))
        .build()
        .unwrap();
    for (days, text) in [(1, "soon"), (4_000, "late")] {
        log.outbox.emit(&log.pool, &Noted { text: text.to_owned() }).delay(days * DAY).await.unwrap();
    }
    log.outbox.emit(&log.pool, &counted("daily", 1)).delay(DAY).await.unwrap();
    let drained = testing::drain(&consumer).await.unwrap();
    assert_eq!(drained.handled, 1_002);
    assert_eq!(log.number("select count(*) from event_box.delayed").await, 2);
    log.close().await;
}

#[tokio::test]
async fn assertions_tell_delayed_events_from_others() {
    let log = TestLog::new().await;
    let mut tx = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 1)).delay(DAY).await.unwrap();
    let time = SystemTime::UNIX_EPOCH + 100_000 * DAY;
    log.outbox.emit(&mut *tx, &counted("k", 2)).due_at(time).await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 3)).due_at(SystemTime::UNIX_EPOCH).await.unwrap();
    log.outbox.emit(&mut *tx, &counted("k", 4)).delay(Duration::from_nanos(1_500)).await.unwrap();
    testing::assert_delayed(&mut *tx, &counted("k", 1), DAY).await;
    testing::assert_delayed(&mut *tx, &counted("k", 3), Duration::ZERO).await;
    testing::assert_delayed(&mut *tx, &counted("k", 4), Duration::from_nanos(1_500)).await;
    let delayed = testing::delayed::<Counted>(&mut *tx).await;
    let numbers: Vec<_> = delayed.iter().map(|(event, _)| event.n).collect();
    assert_eq!((numbers, delayed[3].1), (vec![3, 4, 1, 2], time));
    assert_eq!(testing::emitted::<Counted>(&mut *tx).await, []);
    assert!(testing::delayed::<Counted>(&log.pool).await.is_empty());
    tx.commit().await.unwrap();

    let said = message(testing::assert_emitted(&log.pool, &counted("k", 1))).await;
    let start =
        "no such Counted was emitted; none at all is visible to this executor (4 delayed: see `assert_delayed`)";
    assert!(said.starts_with(start), "{said}");
    let said = message(testing::assert_emitted_matching(&log.pool, |event: &Counted| event.n == 1)).await;
    assert!(said.contains("(4 delayed: see `assert_delayed`)"), "{said}");
    let said = message(testing::assert_not_emitted(&log.pool, |event: &Counted| event.n == 1)).await;
    assert!(said.contains("delay: 86400s") && !said.contains("\"n\": 2"), "{said}");
    let said = message(testing::assert_delayed(&log.pool, &counted("k", 1), 2 * DAY)).await;
    assert!(said.starts_with("no such Counted was delayed; 4 others are visible"), "{said}");
    assert!(said.contains("-delay: 86400s\n+delay: 172800s\n"), "{said}");
    log.close().await;
}
