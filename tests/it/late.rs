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

/// As delivery reads how far the log's sequence went.
const LAST_VALUE: &str = "coalesce(pg_sequence_last_value('event_box.events_sequence_seq'), 0)";

/// For the moment in which `nextval` logs, the sequence's page holds a value 32 ahead, which a plain `select last_value` sees once in some
/// 150,000 times: a mark as high as that lost late events.
#[tokio::test(flavor = "multi_thread")]
async fn the_sequence_is_never_read_ahead_of_what_it_handed_out() {
    for source in ["claim.sql", "group.rs", "poll.rs"] {
        let path = format!("{}/../event-box/src/{source}", env!("CARGO_MANIFEST_DIR"));
        assert!(std::fs::read_to_string(path).unwrap().contains(LAST_VALUE), "{source}");
    }
    let log = TestLog::new().await;
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let pool = log.pool.clone();
        let draw =
            "do $$ begin for i in 1..1200000 loop perform nextval('event_box.events_sequence_seq'); end loop; end $$";
        busy.spawn(async move { sqlx::raw_sql(draw).execute(&pool).await.map(drop) });
    }
    let read = format!(
        "do $$ declare seen bigint; begin
             for i in 1..600000 loop
                 execute $read$ select {LAST_VALUE} $read$ into seen;
                 if nextval('event_box.events_sequence_seq') <= seen then raise exception 'read ahead: %', seen; end if;
             end loop;
         end $$"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(read)).execute(&log.pool).await.expect("never ahead");
    for drawn in busy.join_all().await {
        drawn.expect("drawn");
    }
    log.close().await;
}
