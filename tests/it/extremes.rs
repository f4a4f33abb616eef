use std::time::Duration;

use event_box::{Backoff, BoxError, Consumer, Context, Failure};
use event_box_tests::{Counted, Noted, PATIENCE, Running, Seen, TestLog, seen_by, wait_until_seen};
use tokio::sync::mpsc;

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// "No limit", as people write it.
#[tokio::test]
async fn the_largest_settings_deliver() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Counted, cx: &mut Context<'_, mpsc::UnboundedSender<i64>>| -> Result<(), Failure> {
            match event.n {
                1 => Err(Failure::Snooze(Duration::MAX)),
                2 => Err(Failure::Retry("for ever".into())),
                n => Ok(cx.state().send(n)?),
            }
        })
        .batch_size(usize::MAX)
        .batch_bytes(usize::MAX)
        .handler_timeout(Duration::MAX)
        .poll_interval(Duration::MAX)
        .shutdown_timeout(Duration::MAX)
        .retention(Duration::MAX)
        .max_attempts(u32::MAX)
        .backoff(Backoff::fixed(Duration::MAX))
        .build()
        .unwrap();
    for n in 1..=5 {
        log.outbox.emit(&log.pool, &counted(&format!("k{n}"), n)).await.unwrap();
    }
    let running = Running::start(consumer);
    for n in 6..=10 {
        log.outbox.emit(&log.pool, &counted(&format!("k{n}"), n)).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.push(tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [3, 4, 5, 6, 7, 8, 9, 10]);
    log.wait_until("select count(*) from event_box.parked where due_at > now() + interval '50 years'", 2).await;
    running.stop().await.unwrap();
    log.close().await;
}

/// Refused at the commit, when every handler has answered: the culprit is found, its neighbours are handled once.
#[tokio::test]
async fn a_deferred_constraint_fails_its_event_alone() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql(
        "create table known (n bigint primary key);
         create table effects (n bigint references known deferrable initially deferred);
         insert into known select generate_series(1, 20); delete from known where n = 7",
    )
    .await;
    let consumer = Consumer::builder(&log.pool, "g")
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            Seen::note("m", &event, cx).await?;
            sqlx::query("insert into effects values ($1)").bind(event.n).execute(cx).await?;
            Ok(())
        })
        .max_attempts(1)
        .build()
        .unwrap();
    let events: Vec<_> = (1..=20).map(|n| counted("k", n)).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 19).await;
    running.stop().await.unwrap();
    let expected: Vec<i64> = (1..=20).filter(|n| *n != 7).collect();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), expected)]);
    let error: String =
        sqlx::query_scalar("select error from event_box.parked where sequence = 7").fetch_one(&log.pool).await.unwrap();
    assert!(error.contains("refused after the handler had answered") && error.contains("effects"), "{error}");
    log.close().await;
}

#[tokio::test]
async fn a_parked_event_that_was_deleted_from_the_log_is_forgotten() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
                if event.n == 1 {
                    return Err("never".into());
                }
                Ok(Seen::note("m", &event, cx).await?)
            })
            .backoff(Backoff::fixed(Duration::from_millis(200)))
            .build()
            .unwrap()
    };
    log.outbox.emit_all(&log.pool, &[counted("k", 1), counted("k", 2)]).await.unwrap();
    let running = Running::start(consumer());
    log.wait_until("select count(*) from event_box.parked", 2).await;
    log.sql("delete from event_box.events where sequence = 1").await;
    wait_until_seen(&log.pool, "g", 1).await;
    running.stop().await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

/// One worker, and a partition that always has more: an event that only a look finds does not wait until it is done.
#[tokio::test]
async fn a_busy_partition_does_not_hide_the_others() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let hot: Vec<_> = (1..=1_000).map(|n| counted("hot", n)).collect();
    log.outbox.emit_all(&log.pool, &hot).await.unwrap();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Counted, cx: &mut Context<'_, mpsc::UnboundedSender<i64>>| -> Result<(), BoxError> {
            sqlx::query("select 1").execute(&mut *cx).await?;
            Ok(cx.state().send(event.n)?)
        })
        .on(async |_: Noted, cx: &mut Context<'_, mpsc::UnboundedSender<i64>>| -> Result<(), BoxError> {
            Ok(cx.state().send(0)?)
        })
        .workers(1)
        .batch_size(1)
        .poll_interval(Duration::from_millis(20))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    let mut next = async || tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap();
    assert_eq!(next().await, 1);
    log.outbox.clone().notify(false).emit(&log.pool, &Noted { text: "quiet".to_owned() }).await.unwrap();
    let mut before = 1;
    while next().await != 0 {
        before += 1;
    }
    assert!(before < 900, "{before} of the busy partition's events went first");
    running.stop().await.unwrap();
    log.close().await;
}
