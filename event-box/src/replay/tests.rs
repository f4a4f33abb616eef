use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    BoxError, Consumer, Context, EventBox, Outbox,
    group::Start,
    test_log::{Counted, TestLog},
};

type Reports = mpsc::UnboundedSender<i64>;

async fn report(event: Counted, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(event.n)?)
}

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// Events emitted since the time that the search cannot see, because their transactions are open or yet to begin, and that are committed
/// and delivered before the replay has its lock.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_between_the_search_and_the_lock_comes_again() {
    let log = TestLog::new().await;
    log.group("g", Start::Beginning).await;
    let outbox = Outbox::new();
    let (sender, mut reports) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let consumer = Consumer::builder(&log, "g").state(sender).on(report).build().unwrap();
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), reports.recv()).await.unwrap().unwrap();

    outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    assert_eq!(next().await, 1);
    let since: Timestamp = sqlx::query_scalar("select clock_timestamp()").fetch_one(&log.pool).await.unwrap();
    let mut slow = log.pool.begin().await.unwrap();
    outbox.emit(&mut *slow, &counted("k", 2)).await.unwrap();
    for n in 3..=6 {
        outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
        assert_eq!(next().await, n);
    }
    let above: bool =
        sqlx::query_scalar("select max(floor) > 2 from event_box.cursors").fetch_one(&log.pool).await.unwrap();
    assert!(above, "the open transaction's event lies below the common floor, above its own alone");

    let group = EventBox::from(&log).group("g");
    let mut connection = group.connect().await.unwrap();
    let search = group.search(&mut connection, since.0).await.unwrap();
    slow.commit().await.unwrap();
    assert_eq!(next().await, 2);
    outbox.emit(&log.pool, &counted("elsewhere", 7)).await.unwrap();
    assert_eq!(next().await, 7);
    group.replay_found(&mut connection, search).await.unwrap();
    let mut again = Vec::new();
    for _ in 0..6 {
        again.push(next().await);
    }
    again.sort_by_key(|n| *n == 7);
    assert_eq!(again, [2, 3, 4, 5, 6, 7]);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(reports.recv().await, None, "nothing else came");
    drop(connection);
    log.close().await;
}
