use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Context};
use event_box_tests::{Counted, PATIENCE, Running, Seen, TestLog, seen_by, wait_until_seen};
use tokio::sync::{Semaphore, mpsc};

struct Gate {
    started: mpsc::UnboundedSender<i64>,
    open: Arc<Semaphore>,
}

/// Reports that it started, and goes on once it is let.
async fn gated(event: Counted, cx: &mut Context<'_, Gate>) -> Result<(), BoxError> {
    Seen::note("m", &event, cx).await?;
    cx.state().started.send(event.n)?;
    cx.state().open.acquire().await?.forget();
    Ok(())
}

async fn gated_log() -> (TestLog, Arc<Semaphore>, mpsc::UnboundedReceiver<i64>, event_box::ConsumerBuilder<Gate>) {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let events: Vec<_> = (1..=5).map(|n| Counted { key: "k".to_owned(), n }).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let (started, reports) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(0));
    let builder = Consumer::builder(&log.pool, "g").state(Gate { started, open: open.clone() }).on(gated);
    (log, open, reports, builder)
}

#[tokio::test]
async fn what_runs_finishes_and_nothing_further_starts() {
    let (log, open, mut reports, builder) = gated_log().await;
    let running = Running::start(builder.build().unwrap());
    assert_eq!(reports.recv().await, Some(1));
    running.shutdown.cancel();
    open.add_permits(5);
    running.ended().await.unwrap();
    assert!(reports.try_recv().is_err(), "no further event starts");
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1])]);
    log.close().await;
}

#[tokio::test]
async fn what_outlasts_the_shutdown_time_out_is_rolled_back_and_comes_again() {
    let (log, open, mut reports, builder) = gated_log().await;
    let running = Running::start(builder.shutdown_timeout(Duration::from_millis(200)).build().unwrap());
    assert_eq!(reports.recv().await, Some(1));
    let asked = Instant::now();
    running.stop().await.unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert_eq!(seen_by(&log.pool, "g").await, []);
    drop((open, reports));
    let (started, mut reports) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(100));
    let consumer = Consumer::builder(&log.pool, "g").state(Gate { started, open }).on(gated).build().unwrap();
    let running = Running::start(consumer);
    for n in 1..=5 {
        assert_eq!(tokio::time::timeout(PATIENCE, reports.recv()).await.unwrap(), Some(n));
    }
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3, 4, 5])]);
    log.close().await;
}

#[tokio::test]
async fn sigterm_and_sigint_end_a_process_in_good_order() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    for (i, signal) in ["-TERM", "-INT"].into_iter().enumerate() {
        let url = log.url();
        let mut member = Command::new(env!("CARGO_BIN_EXE_group-member"))
            .args([url, "g", "m", "2"])
            .spawn()
            .expect("the member starts");
        log.outbox.emit(&log.pool, &Counted { key: "k".to_owned(), n: i as i64 }).await.unwrap();
        wait_until_seen(&log.pool, "g", i as i64 + 1).await;
        assert!(Command::new("kill").args([signal, &member.id().to_string()]).status().unwrap().success());
        assert!(member.wait().unwrap().success(), "{signal}");
    }
    log.close().await;
}
