//! Runs that fail, as a whole or in part.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Delivery, Failed, Failure};
use event_box_tests::{Counted, Logged, Running, Tallied, keys_of_one_partition, seen_by, wait_until_seen};

use super::{Calls, emit, log, tally, write};

#[derive(Default)]
struct Poison {
    calls: AtomicUsize,
    /// A panic where there is none.
    answer: Option<Answer>,
}

type Answer = fn() -> Failure;

async fn fails_with_a_poison(
    events: Vec<Delivery<Counted>>,
    cx: &mut Context<'_, &'static Poison>,
) -> Result<(), Failure> {
    cx.state().calls.fetch_add(1, Ordering::Relaxed);
    write(&events, cx).await?;
    if events.iter().any(|delivery| delivery.event.n == 77) {
        return Err(cx.state().answer.map_or_else(|| panic!("77"), |answer| answer()));
    }
    Ok(())
}

/// Whether it fails, rejects, panics or calls the other side down.
#[tokio::test]
async fn a_failing_batch_is_narrowed_down_to_the_failing_event() {
    let answers: [(&str, Option<Answer>); 4] = [
        ("failed", Some(|| Failure::Retry("77".into()))),
        ("failed", Some(|| Failure::Reject("77".into()))),
        ("failed", None),
        ("snoozed", Some(|| Failure::Snooze(Duration::from_secs(3600)))),
    ];
    for (i, (reason, answer)) in answers.into_iter().enumerate() {
        let log = log().await;
        let keys = keys_of_one_partition(&log.pool, 8).await;
        // One event of number 77 alone, in the middle of 801, and two more of its key behind it.
        emit(&log, &keys, 1..=50).await;
        emit(&log, &keys[..1], 77..=79).await;
        emit(&log, &keys[1..], 100..=150).await;
        let poison: &'static Poison = Box::leak(Box::new(Poison { answer, ..Poison::default() }));
        let consumer = Consumer::builder(&log.pool, "g")
            .state(poison)
            .on_batch(fails_with_a_poison)
            .backoff(Backoff::fixed(Duration::from_secs(3600)))
            .build()
            .unwrap();
        let running = Running::start(consumer);
        let dead = i == 1;
        // Snoozed is the run as a whole; a rejected event's key goes on.
        let expected = if reason == "snoozed" { 0 } else { 400 + 7 * 51 + if dead { 2 } else { 0 } };
        if expected > 0 {
            wait_until_seen(&log.pool, "g", expected).await;
        }
        let parked = if reason == "snoozed" {
            760
        } else if dead {
            1
        } else {
            3
        };
        log.wait_until("select count(*) from event_box.parked", parked).await;
        running.stop().await.unwrap();
        assert_eq!(log.number("select count(*) from seen").await, expected, "{i}: nothing twice");
        assert_eq!(log.number("select count(*) from event_box.parked").await, parked, "{i}");
        let named: Vec<(i64, i32)> = sqlx::query_as(
            "select (e.payload ->> 'n')::bigint, attempts from event_box.parked join event_box.events as e using (partition, sequence)
             where reason = 'failed'",
        )
        .fetch_all(&log.pool)
        .await
        .unwrap();
        match reason {
            "failed" => assert_eq!(named, [(77, 1)], "{i}"),
            _ => assert_eq!(log.number("select sum(attempts)::bigint from event_box.parked").await, 0),
        }
        let calls = poison.calls.load(Ordering::Relaxed);
        assert!(calls <= 24, "{i}: {calls} calls for 760 events");
        log.close().await;
    }
}

#[tokio::test]
async fn a_run_that_calls_the_other_side_down_parks_nothing_and_its_poison_is_found_by_the_probe() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 8).await;
    emit(&log, &keys, 1..=50).await;
    emit(&log, &keys[..1], 77..=79).await;
    emit(&log, &keys[1..], 100..=120).await;
    let poison: &'static Poison =
        Box::leak(Box::new(Poison { answer: Some(|| Failure::Unavailable("77".into())), ..Poison::default() }));
    let consumer = Consumer::builder(&log.pool, "g")
        .state(poison)
        .on_batch(fails_with_a_poison)
        .backoff(Backoff::fixed(Duration::from_secs(3600)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 400 + 7 * 21).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.parked where reason = 'failed' and attempts = 1").await, 1);
    assert_eq!(log.number("select count(*) from event_box.parked where reason = 'waiting'").await, 2);
    assert_eq!(log.number("select count(*) from seen").await, 400 + 7 * 21);
    log.close().await;
}

/// Names what it did not write: numbers that seven divides.
async fn leaves_some_out(
    events: Vec<Delivery<Counted>>,
    cx: &mut Context<'_, &'static Calls>,
) -> Result<Vec<Failed>, sqlx::Error> {
    cx.state().note(events.len());
    let (left_out, written): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|delivery| delivery.event.n % 7 == 0 && delivery.info().attempt() == 1);
    write(&written, cx).await?;
    Ok(left_out.iter().map(|delivery| delivery.failed("seven")).collect())
}

#[tokio::test]
async fn what_an_answer_leaves_out_is_parked_and_the_rest_is_written() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 70).await;
    // One event a key: nothing stands behind what is left out.
    let events: Vec<_> = keys.iter().zip(1..).map(|(key, n)| Counted { key: key.clone(), n }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let calls: &'static Calls = Box::leak(Box::default());
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .state(calls)
            .on_batch(leaves_some_out)
            .backoff(Backoff::fixed(Duration::from_millis(100)))
            .build()
            .unwrap()
    };
    let running = Running::start(consumer());
    wait_until_seen(&log.pool, "g", 70).await;
    assert_eq!(calls.lengths()[0], 70);
    assert!(calls.lengths()[1..].iter().all(|length| *length == 1), "what was parked comes alone");
    // Two keys, with others behind: the call is made again without those.
    emit(&log, &keys[..2], 101..=140).await;
    wait_until_seen(&log.pool, "g", 70 + 80).await;
    running.stop().await.unwrap();
    for key in &keys[..2] {
        let numbers: Vec<i64> = sqlx::query_scalar("select n from seen where key = $1 and n > 100 order by at")
            .bind(key)
            .fetch_all(&log.pool)
            .await
            .unwrap();
        assert_eq!(numbers, (101..=140).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_parked_alone() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 4).await;
    emit(&log, &keys, 1..=10).await;
    let broken = r#"select event_box.emit('test.counted', '{"key": "k", "n": "eleven"}', $1)"#;
    sqlx::query(broken).bind(&keys[0]).execute(&log.pool).await.unwrap();
    emit(&log, &keys, 12..=20).await;
    let calls: &'static Calls = Box::leak(Box::default());
    let consumer = Consumer::builder(&log.pool, "g").state(calls).on_batch(
        async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_, &'static Calls>| {
            cx.state().note(events.len());
            write(&events, cx).await
        },
    );
    let running = Running::start(consumer.build().unwrap());
    wait_until_seen(&log.pool, "g", 40 + 27).await;
    log.wait_until("select count(*) from event_box.parked", 10).await;
    running.stop().await.unwrap();
    assert_eq!(calls.lengths(), [67], "called once, without it and what stands behind it");
    let error: String = sqlx::query_scalar("select error from event_box.parked where reason = 'failed'")
        .fetch_one(&log.pool)
        .await
        .unwrap();
    assert!(error.contains("at `n`"), "the path: {error}");
    log.close().await;
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_tried_event_by_event() {
    let logged = Logged::here();
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 5).await;
    emit(&log, &keys, 1..=4).await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_>| -> Result<(), BoxError> {
            let slow = events.iter().any(|delivery| delivery.event.n == 3);
            write(&events, cx).await?;
            if slow {
                sqlx::query("select pg_sleep(600)").execute(&mut *cx).await?;
            }
            Ok(())
        })
        .handler_timeout(Duration::from_secs(3))
        .backoff(Backoff::fixed(Duration::from_secs(3600)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked where reason = 'failed'", 5).await;
    wait_until_seen(&log.pool, "g", 10).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from seen").await, 10, "1 and 2 of each key, once");
    assert_eq!(log.number("select count(*) from event_box.parked where reason = 'waiting'").await, 5);
    assert!(logged.times("a batch was refused, its events are tried one by one") >= 1);
    log.close().await;
}

/// Handlers of single events take savepoints, and so does a run that is narrowed down: wherever in that they run out.
#[tokio::test]
async fn a_run_is_narrowed_down_where_savepoints_run_out() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 60).await;
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_>| -> Result<(), BoxError> {
                write(&events, cx).await?;
                match events.iter().any(|delivery| delivery.event.n % 8 == 5 && delivery.info().attempt() == 1) {
                    true => Err("five".into()),
                    false => Ok(()),
                }
            })
            .on(tally)
            .build()
            .unwrap()
    };
    let mut expected = 0;
    for singles in 38..50 {
        let mut tx = log.pool.begin().await.unwrap();
        let round = i64::from(singles) * 100;
        for n in 1..=8 {
            log.outbox.emit(&mut *tx, &Counted { key: keys[0].clone(), n: round + n }).await.unwrap();
        }
        for key in &keys[1..=singles as usize] {
            log.outbox.emit(&mut *tx, &Tallied { key: key.clone(), n: round }).await.unwrap();
        }
        log.outbox.emit(&mut *tx, &Tallied { key: keys[0].clone(), n: round + 9 }).await.unwrap();
        tx.commit().await.unwrap();
        let drained = event_box::testing::drain(&consumer()).await.unwrap();
        expected += i64::from(singles) + 9;
        assert_eq!(log.number("select count(*) from seen").await, expected, "{singles}: {:?}", drained.failures);
    }
    for (key, numbers) in seen_by(&log.pool, "g").await {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    log.close().await;
}

/// No event is to blame: those of the run go one by one, and what comes after them in runs again.
#[tokio::test]
async fn after_a_run_that_was_too_long_as_a_whole_there_are_runs_again() {
    let logged = Logged::here();
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 1).await;
    emit(&log, &keys, 1..=30).await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_>| -> Result<(), BoxError> {
            write(&events, cx).await?;
            if events.len() > 5 {
                sqlx::query("select pg_sleep(600)").execute(&mut *cx).await?;
            }
            Ok(())
        })
        .batch_size(10)
        .handler_timeout(Duration::from_secs(4))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 30).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [(keys[0].clone(), (1..=30).collect())]);
    assert_eq!(logged.times("a batch was refused, its events are tried one by one"), 3);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}
