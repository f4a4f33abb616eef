use std::time::Duration;

use event_box::{Backoff, BoxError, Consumer, Context, DeadLetter, Event};
use event_box_tests::{Counted, PATIENCE, Running, Seen, TestLog, seen_by, wait_until_seen};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "test.fragile", partition_key = "key")]
struct Fragile {
    key: String,
}

async fn fails(_: Fragile, _: &mut Context<'_>) -> Result<(), BoxError> {
    Err("always".into())
}

async fn fails_too(_: Counted, _: &mut Context<'_>) -> Result<(), BoxError> {
    Err("always".into())
}

/// What is said of one type holds for it alone.
#[tokio::test]
async fn attempts_and_backoff_are_set_for_the_group_and_for_each_type() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &Fragile { key: "f".to_owned() }).await.unwrap();
    log.outbox.emit(&log.pool, &Counted { key: "c".to_owned(), n: 1 }).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(fails)
        .on(fails_too)
        .max_attempts(5)
        .backoff(Backoff::fixed(Duration::from_secs(500)))
        .max_attempts_for::<Fragile>(2)
        .backoff_for::<Fragile>(Backoff::fixed(Duration::from_millis(1)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from event_box.parked where dead_at is not null", 1).await;
    log.wait_until("select count(*) from event_box.parked", 2).await;
    running.stop().await.unwrap();
    let parked: Vec<(String, i32, bool, Option<f64>)> = sqlx::query_as(
        "select topic, attempts, dead_at is not null, extract(epoch from due_at - last_failed_at)::float8
         from event_box.parked order by topic",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    assert_eq!((parked[0].0.as_str(), parked[0].1, parked[0].2), ("test.counted", 1, false));
    assert!((450.0..=550.0).contains(&parked[0].3.unwrap()), "{parked:?}");
    assert_eq!((parked[1].0.as_str(), parked[1].1, parked[1].2, parked[1].3), ("test.fragile", 2, true, None));
    log.close().await;
}

#[tokio::test]
async fn a_held_key_waits_behind_its_dead_letter_while_the_others_go_on() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            if (event.key.as_str(), event.n) == ("held", 2) {
                return Err("never".into());
            }
            Ok(Seen::note("m", &event, cx).await?)
        })
        .max_attempts(1)
        .hold_keys()
        .build()
        .unwrap();
    for n in 1..=4 {
        for key in ["held", "free"] {
            log.outbox.emit(&log.pool, &Counted { key: key.to_owned(), n }).await.unwrap();
        }
    }
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 5).await;
    log.outbox.emit(&log.pool, &Counted { key: "held".to_owned(), n: 5 }).await.unwrap();
    log.wait_until("select count(*) from event_box.parked", 4).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("free".to_owned(), vec![1, 2, 3, 4]), ("held".to_owned(), vec![1])]);
    let dead = log.number("select count(*) from event_box.parked where dead_at is not null and holds_key").await;
    assert_eq!(dead, 1);
    assert_eq!(
        log.number("select count(*) from event_box.parked where reason = 'waiting' and due_at is null").await,
        3
    );
    log.close().await;
}

/// Also where it panics: the next is told all the same.
#[tokio::test]
async fn the_hook_is_told_of_each_new_dead_letter_after_its_commit() {
    let log = TestLog::new().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = log.pool.clone();
    let consumer = Consumer::builder(&log.pool, "g")
        .on(fails)
        .max_attempts(2)
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .on_dead_letter(move |letter: DeadLetter| {
            let (tell, pool) = (tell.clone(), pool.clone());
            async move {
                let committed: bool = sqlx::query_scalar(
                    "select exists (select from event_box.parked where sequence = $1 and dead_at is not null)",
                )
                .bind(letter.sequence)
                .fetch_one(&pool)
                .await
                .unwrap();
                tell.send((letter.clone(), committed)).unwrap();
                assert_ne!(letter.partition_key.as_deref(), Some("0"), "a hook that panics");
            }
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    for i in 0..3 {
        log.outbox.emit(&log.pool, &Fragile { key: i.to_string() }).await.unwrap();
    }
    let mut keys = Vec::new();
    for _ in 0..3 {
        let (letter, committed) = tokio::time::timeout(PATIENCE, told.recv()).await.expect("in time").unwrap();
        assert!(committed);
        assert_eq!((letter.group.as_str(), letter.topic.as_str(), letter.attempts), ("g", "test.fragile", 2));
        assert_eq!(letter.error, "always");
        keys.extend(letter.partition_key);
    }
    keys.sort();
    assert_eq!(keys, ["0", "1", "2"]);
    running.stop().await.unwrap();
    assert!(told.try_recv().is_err(), "once each");
    log.close().await;
}
