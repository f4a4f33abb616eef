use event_box::{BoxError, Consumer, Context};
use event_box_tests::{Counted, PATIENCE, Running, TestLog};
use tokio::sync::mpsc;

type Reports = mpsc::UnboundedSender<(String, i64)>;

async fn report(event: Counted, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send((event.key, event.n))?)
}

/// An event whose transaction commits long after its neighbours' is delivered; one that stays open delays nothing.
#[tokio::test]
async fn open_transactions_delay_nobody_and_lose_nothing() {
    let log = TestLog::new().await;
    let (sender, mut reports) = mpsc::unbounded_channel();
    let running = Running::start(Consumer::builder(&log.pool, "g").state(sender).on(report).build().unwrap());
    let mut next = async || tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    let event = |key: &str, n| Counted { key: key.to_owned(), n };

    // Holds an xid, a snapshot and rows of the log for the whole test.
    let mut open = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *open, &event("open", 1)).await.unwrap();
    let mut slow = log.pool.begin().await.unwrap();
    log.outbox.emit(&mut *slow, &event("k", 1)).await.unwrap();
    for n in 2..=300 {
        log.outbox.emit(&log.pool, &event("k", n)).await.unwrap();
        assert_eq!(next().await, ("k".to_owned(), n));
    }
    slow.commit().await.unwrap();
    assert_eq!(next().await, ("k".to_owned(), 1), "late, and not lost");
    log.outbox.emit(&log.pool, &event("k", 301)).await.unwrap();
    assert_eq!(next().await, ("k".to_owned(), 301));
    open.commit().await.unwrap();
    assert_eq!(next().await, ("open".to_owned(), 1));
    running.stop().await.unwrap();
    log.close().await;
}

/// More late events than a batch takes, while fresh ones keep coming.
#[tokio::test]
async fn a_large_late_transaction_goes_out_in_order() {
    let log = TestLog::new().await;
    let (sender, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(sender).on(report).batch_size(64).build().unwrap();
    let running = Running::start(consumer);
    let mut large = log.pool.begin().await.unwrap();
    let many: Vec<_> = (1..=2_000).map(|n| Counted { key: format!("late{}", n % 3), n }).collect();
    log.outbox.emit_all(&mut *large, &many).await.unwrap();
    let mut fresh = 0;
    for n in 1..=50 {
        log.outbox.emit(&log.pool, &Counted { key: "late0".to_owned(), n: 10_000 + n }).await.unwrap();
        fresh += 1;
    }
    large.commit().await.unwrap();
    let mut seen: std::collections::BTreeMap<String, Vec<i64>> = Default::default();
    for _ in 0..2_000 + fresh {
        let (key, n) = tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
        seen.entry(key).or_default().push(n);
    }
    running.stop().await.unwrap();
    assert!(reports.try_recv().is_err());
    for (key, numbers) in seen {
        let late: Vec<_> = numbers.iter().copied().filter(|n| *n <= 2_000).collect();
        assert!(late.is_sorted(), "{key}");
        let fresh: Vec<_> = numbers.iter().copied().filter(|n| *n > 2_000).collect();
        assert!(fresh.is_sorted(), "{key}");
    }
    log.close().await;
}
