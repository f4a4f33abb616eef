use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError, Consumer, Context,
    batch::Done,
    group::Start,
    test_log::{Counted, TestLog},
};

async fn ignore(_: Counted, _: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(())
}

/// Partitions whose cursor has moved.
async fn reached(log: &TestLog) -> i64 {
    sqlx::query_scalar("select count(*) from event_box.cursors where position > 0").fetch_one(&log.pool).await.unwrap()
}

#[test]
fn the_next_batch_reads_what_it_can_use() {
    let limit = |done: Done| super::outcome::next_limit(&done, 1_000);
    assert_eq!(limit(Done { handled: 1_000, ..Done::default() }), 1_000);
    assert_eq!(limit(Done { out_of_savepoints: true, ..Done::default() }), 50);
    let slow = |handled| Done { out_of_time: true, handled, ..Done::default() };
    assert_eq!([0, 40, 900].map(|handled| limit(slow(handled))), [16, 80, 1_000]);
    assert_eq!(super::outcome::next_limit(&slow(0), 5), 5);
}

/// The first look is slower than the first poll: what is committed later is not noticed for 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_first_look_does_not_make_the_group_sleep() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    // No notification; its sequence is taken before the consumer starts.
    let mut open = log.pool.begin().await.unwrap();
    sqlx::raw_sql(r#"select event_box.emit('counted', '{"key":"k","n":5}', 'k')"#).execute(&mut *open).await.unwrap();
    // Whatever makes a look take more than 20 ms.
    let mut lock = log.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table event_box.parked in access exclusive mode").execute(&mut *lock).await.unwrap();
    // Nor is the first poll there at once: a server that is some milliseconds away, and TLS.
    let pool = log.pool.options().clone().before_acquire(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Ok(true)
        })
    });
    let pool = pool.after_connect(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Ok(())
        })
    });
    let pool = pool.connect_with(log.pool.connect_options().as_ref().clone()).await.unwrap();
    let consumer = Consumer::builder(&pool, "g")
        .poll_interval(Duration::from_secs(1))
        .retention(None)
        .dead_letter_retention(None)
        .on(ignore)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    lock.rollback().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    open.commit().await.unwrap();
    let committed = Instant::now();
    while reached(&log).await == 0 && committed.elapsed().as_secs() < 25 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waited = committed.elapsed();
    stop.cancel();
    running.await.unwrap().unwrap();
    pool.close().await;
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    log.close().await;
}
