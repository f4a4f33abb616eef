use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use event_box::{BoxError, Consumer, Context, EventBox};
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

/// How many events each group has reported.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    /// Runs the group until it has reported so many events since the beginning; it may report more.
    async fn consume(&mut self, log: &TestLog, group: &'static str, total: usize) {
        let reported = self.0.entry(group).or_default();
        let (sender, mut reports) = mpsc::unbounded_channel();
        let running = Running::start(Consumer::builder(&log.pool, group).state(sender).on(report).build().unwrap());
        while *reported < total {
            tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
            *reported += 1;
        }
        running.stop().await.unwrap();
        while reports.recv().await.is_some() {
            *reported += 1;
        }
    }
}

async fn prune(log: &TestLog, retention: Duration) -> u64 {
    event_box::prune(&log.pool, retention).await.unwrap().events
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn prune_removes_only_what_every_group_was_given() {
    let (log, mut tally) = (TestLog::new().await, Tally::default());
    let many: Vec<_> = (1..=5_000).map(|n| Counted { key: format!("k{}", n % 200), n }).collect();
    log.outbox.emit_all(&log.pool, &many).await.unwrap();
    assert_eq!(prune(&log, NOW).await, 0, "without a group nothing goes");
    tally.consume(&log, "first", 5_000).await;
    assert_eq!(prune(&log, Duration::from_secs(3600)).await, 0, "nothing is that old");
    let mut late = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *late, &Counted { key: "late".to_owned(), n: 1 }).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("late", 2..=3)).await.unwrap();
    tally.consume(&log, "first", 5_002).await;
    tally.consume(&log, "second", 1).await;
    let given = prune(&log, NOW).await;
    assert!((1..5_002).contains(&given), "the second group has had some of it: {given}");
    tally.consume(&log, "second", 5_002).await;
    assert_eq!(given + prune(&log, NOW).await, 5_002);
    late.commit().await.unwrap();
    assert_eq!(prune(&log, NOW).await, 0, "old, behind every position, and not delivered");
    tally.consume(&log, "first", 5_003).await;
    assert_eq!(prune(&log, NOW).await, 0, "the other group has not had it");
    tally.consume(&log, "second", 5_003).await;
    assert_eq!(prune(&log, NOW).await, 1);
    assert_eq!(log.number("select count(*) from event_box.events").await, 0);
    log.close().await;
}

#[tokio::test]
async fn parked_events_keep_their_rows() {
    let (log, mut tally) = (TestLog::new().await, Tally::default());
    log.outbox.emit_all(&log.pool, &events("bad", 1..=3)).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("good", 1..=3)).await.unwrap();
    tally.consume(&log, "g", 3).await;
    let (sender, _reports) = mpsc::unbounded_channel();
    let running = Running::start(Consumer::builder(&log.pool, "g").state(sender).on(report).build().unwrap());
    log.wait_until("select count(*) from event_box.parked", 3).await;
    running.stop().await.unwrap();
    assert_eq!(prune(&log, NOW).await, 3);
    assert_eq!(log.number("select count(*) from event_box.events where partition_key = 'bad'").await, 3);
    log.close().await;
}

#[tokio::test]
async fn a_removed_group_holds_nothing_back() {
    let (log, mut tally) = (TestLog::new().await, Tally::default());
    log.outbox.emit_all(&log.pool, &events("k", 1..=3)).await.unwrap();
    tally.consume(&log, "gone", 3).await;
    log.outbox.emit_all(&log.pool, &events("k", 4..=6)).await.unwrap();
    tally.consume(&log, "stays", 6).await;
    assert_eq!(prune(&log, NOW).await, 3);
    assert!(EventBox::from(&log.pool).group("gone").remove().await.unwrap());
    assert!(!EventBox::from(&log.pool).group("gone").remove().await.unwrap());
    assert_eq!(prune(&log, NOW).await, 3);
    assert_eq!(log.number("select count(*) from event_box.events").await, 0);
    log.close().await;
}

/// A consumer does it by itself, at its start and once a minute.
#[tokio::test]
async fn consumers_prune_in_the_background() {
    let (log, mut tally) = (TestLog::new().await, Tally::default());
    log.outbox.emit_all(&log.pool, &events("k", 1..=10)).await.unwrap();
    tally.consume(&log, "g", 10).await;
    let (sender, _reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(sender).on(report).retention(NOW).build().unwrap();
    let running = Running::start(consumer);
    log.wait_until("select (count(*) = 0)::int::bigint from event_box.events", 1).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// Everything that is logged while it lives, on this thread.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_group_that_nobody_runs_is_named_where_it_holds_events_back() {
    let (log, mut tally) = (TestLog::new().await, Tally::default());
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt().with_writer({
        let written = written.clone();
        move || written.clone()
    });
    let _guard = tracing::subscriber::set_default(subscriber.with_ansi(false).finish());
    log.outbox.emit_all(&log.pool, &events("k", 1..=1)).await.unwrap();
    tally.consume(&log, "gone", 1).await;
    log.outbox.emit_all(&log.pool, &events("k", 2..=10)).await.unwrap();
    tally.consume(&log, "content", 10).await;
    log.sql("update event_box.consumer_groups set seen_at = now() - interval '50 hours'").await;
    let (sender, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(sender).on(report).retention(NOW).build().unwrap();
    let running = Running::start(consumer);
    reports.recv().await.unwrap();
    let text = || String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !text().contains("holds old events back") {
        assert!(tokio::time::Instant::now() < deadline, "{}", text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await.unwrap();
    let text = text();
    let line = text.lines().find(|line| line.contains("holds old events back")).unwrap();
    assert!(line.contains("EventBox::group(\"gone\").remove()") && line.contains("days=2"), "{line}");
    assert!(!text.contains("group(\"content\")"), "{text}");
    log.close().await;
}
