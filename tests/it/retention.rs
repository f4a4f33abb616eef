use std::time::Duration;

use event_box::{BoxError, Consumer, Context};
use event_box_tests::{Counted, PATIENCE, Running, TestLog};
use tokio::sync::mpsc;

type Reports = mpsc::UnboundedSender<i64>;

async fn report(event: Counted, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    if event.key == "bad" {
        return Err("never".into());
    }
    Ok(cx.state().send(event.n)?)
}

fn events(key: &str, numbers: std::ops::RangeInclusive<i64>) -> Vec<Counted> {
    numbers.map(|n| Counted { key: key.to_owned(), n }).collect()
}

/// Runs the group until it has reported so many events.
async fn consume(log: &TestLog, group: &str, count: usize) {
    let (sender, mut reports) = mpsc::unbounded_channel();
    let running = Running::start(Consumer::builder(&log.pool, group).state(sender).on(report).build().unwrap());
    for _ in 0..count {
        tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    }
    running.stop().await.unwrap();
}

async fn prune(log: &TestLog, retention: Duration) -> u64 {
    event_box::prune(&log.pool, retention).await.unwrap().events
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn prune_removes_only_what_every_group_was_given() {
    let log = TestLog::new().await;
    let keys = 5_000;
    let many: Vec<_> = (1..=keys).map(|n| Counted { key: format!("k{}", n % 200), n }).collect();
    log.outbox.emit_all(&log.pool, &many).await.unwrap();
    assert_eq!(prune(&log, NOW).await, 0, "without a group nothing goes");
    consume(&log, "first", keys as usize).await;
    assert_eq!(prune(&log, Duration::from_secs(3600)).await, 0, "nothing is that old");
    // A second group, from the beginning, that never ran a batch.
    let mut late = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *late, &Counted { key: "late".to_owned(), n: 1 }).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("late", 2..=3)).await.unwrap();
    consume(&log, "second", 2).await;
    assert!(log.number("select count(*) from event_box.events").await >= 5_000);
    consume(&log, "first", 2).await;
    consume(&log, "second", keys as usize).await;
    let removed = prune(&log, NOW).await;
    assert_eq!(removed, keys as u64 + 2, "the late one is not committed yet");
    late.commit().await.unwrap();
    assert_eq!(prune(&log, NOW).await, 0, "old, visible, and not delivered");
    consume(&log, "first", 1).await;
    assert_eq!(prune(&log, NOW).await, 0, "the other group has not had it");
    consume(&log, "second", 1).await;
    assert_eq!(prune(&log, NOW).await, 1);
    assert_eq!(log.number("select count(*) from event_box.events").await, 0);
    log.close().await;
}

#[tokio::test]
async fn parked_events_keep_their_rows() {
    let log = TestLog::new().await;
    log.outbox.emit_all(&log.pool, &events("bad", 1..=3)).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("good", 1..=3)).await.unwrap();
    consume(&log, "g", 3).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while log.number("select count(*) from event_box.parked").await < 3 {
        assert!(tokio::time::Instant::now() < deadline);
        let (sender, _reports) = mpsc::unbounded_channel();
        let running = Running::start(Consumer::builder(&log.pool, "g").state(sender).on(report).build().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        running.stop().await.unwrap();
    }
    assert_eq!(prune(&log, NOW).await, 3);
    assert_eq!(log.number("select count(*) from event_box.events where partition_key = 'bad'").await, 3);
    log.close().await;
}

#[tokio::test]
async fn a_removed_group_holds_nothing_back() {
    let log = TestLog::new().await;
    log.outbox.emit_all(&log.pool, &events("k", 1..=3)).await.unwrap();
    consume(&log, "gone", 1).await;
    consume(&log, "stays", 3).await;
    log.outbox.emit_all(&log.pool, &events("k", 4..=6)).await.unwrap();
    consume(&log, "stays", 3).await;
    assert!(prune(&log, NOW).await <= 3);
    assert!(event_box::remove_group(&log.pool, "gone").await.unwrap());
    assert!(!event_box::remove_group(&log.pool, "gone").await.unwrap());
    prune(&log, NOW).await;
    assert_eq!(log.number("select count(*) from event_box.events").await, 0);
    log.close().await;
}

/// A consumer does it by itself, at its start and once a minute.
#[tokio::test]
async fn consumers_prune_in_the_background() {
    let log = TestLog::new().await;
    log.outbox.emit_all(&log.pool, &events("k", 1..=10)).await.unwrap();
    consume(&log, "g", 10).await;
    let (sender, _reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(sender).on(report).retention(NOW).build().unwrap();
    let running = Running::start(consumer);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while log.number("select count(*) from event_box.events").await > 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await.unwrap();
    log.close().await;
}
