//! Delayed events, taken back.

use std::time::Duration;

use event_box::Cancellation;
use event_box_tests::{seen_by, wait_until_seen};
use sqlx::Acquire;
use uuid::Uuid;

use crate::delayed::{DELAYED, HOUR, counted, log_with_seen, start};

#[tokio::test]
async fn an_event_is_cancelled_before_it_is_due_or_not_at_all() {
    let log = log_with_seen().await;
    let outbox = &log.outbox;
    let emit = async |n| outbox.emit(&log.pool, &counted("k", n)).delay(Duration::from_secs(2)).await.unwrap();
    let (cancelled, rolled_back, kept) = (emit(1).await, emit(2).await, emit(3).await);
    assert_eq!(outbox.cancel(&log.pool, cancelled).await.unwrap(), Cancellation::Cancelled);
    assert_eq!(outbox.cancel(&log.pool, cancelled).await.unwrap(), Cancellation::NotWaiting);
    assert_eq!(outbox.cancel(&log.pool, Uuid::now_v7()).await.unwrap(), Cancellation::NotWaiting);
    let mut tx = log.pool.begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut *tx, rolled_back).await.unwrap(), Cancellation::Cancelled);
    let own = outbox.emit(&mut *tx, &counted("k", 4)).delay(HOUR).await.unwrap();
    assert_eq!(outbox.cancel(&mut *tx, own).await.unwrap(), Cancellation::Cancelled);
    let mut savepoint = tx.begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut *savepoint, kept).await.unwrap(), Cancellation::Cancelled);
    savepoint.rollback().await.unwrap();
    tx.rollback().await.unwrap();
    // An id that was given twice.
    for n in [5, 6] {
        outbox.emit(&log.pool, &counted("k", n)).id(own).delay(HOUR).await.unwrap();
    }
    assert_eq!(outbox.cancel(&log.pool, own).await.unwrap(), Cancellation::Cancelled);
    let running = start(&log.pool);
    wait_until_seen(&log.pool, "g", 2).await;
    assert_eq!(outbox.cancel(&log.pool, kept).await.unwrap(), Cancellation::NotWaiting, "it is in the log");
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![2, 3])]);
    assert_eq!(log.number(DELAYED).await, 0);
    log.close().await;
}

/// They fall due while the transactions that cancel them are open: one is committed, one rolled back.
#[tokio::test]
async fn a_cancel_that_is_open_holds_up_nothing_but_its_own_event() {
    let log = log_with_seen().await;
    let emit = async |n| log.outbox.emit(&log.pool, &counted("k", n)).delay(Duration::from_millis(1)).await.unwrap();
    let (gone, taken_back) = (emit(1).await, emit(2).await);
    let (mut committed, mut rolled_back) = (log.pool.begin().await.unwrap(), log.pool.begin().await.unwrap());
    assert_eq!(log.outbox.cancel(&mut *committed, gone).await.unwrap(), Cancellation::Cancelled);
    assert_eq!(log.outbox.cancel(&mut *rolled_back, taken_back).await.unwrap(), Cancellation::Cancelled);
    let running = start(&log.pool);
    for n in [3, 4] {
        emit(n).await;
        wait_until_seen(&log.pool, "g", n - 2).await;
    }
    committed.commit().await.unwrap();
    rolled_back.rollback().await.unwrap();
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![3, 4, 2])]);
    assert_eq!(log.number(DELAYED).await, 0);
    log.close().await;
}
