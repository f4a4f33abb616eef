use std::time::Duration;

use event_box::{Backoff, Consumer, Context, Erasure, EventBox, Failure};
use event_box_tests::{Counted, PATIENCE, Running, Seen, TestLog, seen_by, wait_until_seen};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::replay::ALL_DELIVERED;

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn log_with_seen() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log
}

/// A consumer that cannot handle the first event of the key `bad`.
fn run(log: &TestLog, group: &str) -> Running {
    let consumer = Consumer::builder(&log.pool, group)
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), Failure> {
            if event.key == "bad" && event.n == 1 {
                return Err(Failure::Retry("Jane Doe cannot be greeted".into()));
            }
            Ok(Seen::note("m", &event, cx).await?)
        })
        .backoff(Backoff::fixed(Duration::from_secs(3_600)));
    Running::start(consumer.build().unwrap())
}

fn seen(key: &str, numbers: &[i64]) -> (String, Vec<i64>) {
    (key.to_owned(), numbers.to_vec())
}

#[tokio::test]
async fn an_erased_event_is_passed_over_by_everybody_and_leaves_a_record() {
    let log = log_with_seen().await;
    let events = EventBox::new(log.pool.clone());
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let id = Uuid::now_v7();
    log.outbox.emit(&log.pool, &counted("k", 2)).id(id).header("name", "Jane Doe").await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 3)).await.unwrap();
    let running = run(&log, "early");
    wait_until_seen(&log.pool, "early", 3).await;
    running.stop().await.unwrap();

    let sequence = events.sequence_of(id).await.unwrap().unwrap();
    assert_eq!(sequence, 2);
    assert_eq!(events.sequence_of(Uuid::now_v7()).await.unwrap(), None);
    assert_eq!(events.event(sequence).by("alice").erase().await.unwrap(), Erasure::Erased { parked: 0 });
    assert_eq!(events.event(sequence).by("bob").erase().await.unwrap(), Erasure::AlreadyErased);
    assert_eq!(events.event(99).erase().await.unwrap(), Erasure::NoSuchEvent);
    let record: (String, String, i64, Uuid, String, String, Option<String>) = sqlx::query_as(
        "select actor, action, sequence, event_id, topic, partition_key, detail from event_box.interventions",
    )
    .fetch_one(&log.pool)
    .await
    .unwrap();
    let (actor, action, topic, key) =
        ("alice".to_owned(), "erase".to_owned(), "test.counted".to_owned(), "k".to_owned());
    assert_eq!(record, (actor, action, 2, id, topic, key, None));
    let left: (String, bool) = sqlx::query_as(
        "select payload::text, headers is null and erased_at is not null from event_box.events where sequence = 2",
    )
    .fetch_one(&log.pool)
    .await
    .unwrap();
    assert_eq!(left, ("null".to_owned(), true));

    // By a group that is new, by a replay, and by retention, which removes it like any other.
    let running = [run(&log, "late"), run(&log, "early")];
    events.group("early").replay_all().await.unwrap();
    wait_until_seen(&log.pool, "early", 5).await;
    wait_until_seen(&log.pool, "late", 2).await;
    log.wait_until(ALL_DELIVERED, 1).await;
    for running in running {
        running.stop().await.unwrap();
    }
    assert_eq!(seen_by(&log.pool, "late").await, [seen("k", &[1, 3])]);
    assert_eq!(seen_by(&log.pool, "early").await, [seen("k", &[1, 2, 3, 1, 3])]);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    assert_eq!(event_box::prune(&log.pool, Duration::ZERO).await.unwrap().events, 3);
    log.close().await;
}

#[tokio::test]
async fn parked_copies_go_and_those_behind_them_go_on() {
    let log = log_with_seen().await;
    log.outbox.emit_all(&log.pool, &[counted("bad", 1), counted("bad", 2), counted("bad", 3)]).await.unwrap();
    let running = [run(&log, "one"), run(&log, "two")];
    log.wait_until("select count(*) from event_box.parked", 6).await;
    log.sql(r#"update event_box.parked set payload = '{"name": "Jane Doe"}' where sequence = 1"#).await;
    let event = EventBox::new(log.pool.clone()).event(1);
    assert_eq!(event.erase().await.unwrap(), Erasure::Erased { parked: 2 });
    for group in ["one", "two"] {
        // An idle consumer looks by itself only every half minute.
        let seen = tokio::time::timeout(Duration::from_secs(15), wait_until_seen(&log.pool, group, 2));
        seen.await.expect("the erasure wakes the consumer");
    }
    log.wait_until("select (count(*) = 0)::int::bigint from event_box.parked", 1).await;
    for (running, group) in running.into_iter().zip(["one", "two"]) {
        running.stop().await.unwrap();
        assert_eq!(seen_by(&log.pool, group).await, [seen("bad", &[2, 3])]);
    }
    log.close().await;
}

/// Once it returns, no handler has the data.
#[tokio::test]
async fn a_delivery_in_hand_is_waited_for() {
    let log = log_with_seen().await;
    type Gate = mpsc::UnboundedSender<oneshot::Sender<()>>;
    let (gate, mut begun) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(gate)
        .on(async |event: Counted, cx: &mut Context<'_, Gate>| -> Result<(), Failure> {
            let (release, released) = oneshot::channel();
            cx.state().send(release).unwrap();
            released.await.unwrap();
            Ok(Seen::note("m", &event, cx).await?)
        })
        .build()
        .unwrap();
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let running = Running::start(consumer);
    let release = tokio::time::timeout(PATIENCE, begun.recv()).await.unwrap().unwrap();
    let event = EventBox::new(log.pool.clone()).event(1);
    let erasure = tokio::spawn(async move { event.erase().await });
    log.wait_until(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and query like '%event_box.cursors where partition%'",
        1,
    )
    .await;
    release.send(()).unwrap();
    assert_eq!(erasure.await.unwrap().unwrap(), Erasure::Erased { parked: 0 });
    assert_eq!(seen_by(&log.pool, "g").await, [seen("k", &[1])]);
    running.stop().await.unwrap();
    log.close().await;
}
