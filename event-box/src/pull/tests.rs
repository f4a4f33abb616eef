use tokio::time::Instant;

use super::*;
use crate::{
    BoxError, Outbox, PullBuilder,
    test_log::{Counted, TestLog},
};

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

async fn number(log: &TestLog, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&log.pool).await.unwrap()
}

/// How often the loop of the documentation goes round.
async fn pulls_in(log: &TestLog, pull: &Pull, time: Duration) -> usize {
    let (end, mut rounds) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let mut tx = log.pool.begin().await.unwrap();
        let batch = pull.batch(&mut tx, 100).await.unwrap();
        assert!(batch.is_empty());
        drop(tx);
        rounds += 1;
        let _ = tokio::time::timeout_at(end, pull.wait()).await;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puller_waits_where_only_topics_of_others_lie_ahead() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").topic("mine").open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    sqlx::raw_sql("update event_box.cursors set advanced_at = now() - interval '2 minutes'")
        .execute(&log.pool)
        .await
        .unwrap();
    let rounds = pulls_in(&log, &pull, Duration::from_secs(2)).await;
    assert!(rounds < 40, "{rounds} pulls in 2 s");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puller_waits_while_another_holds_what_there_is() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    let other = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    let held = other.batch(&mut tx, 1).await.unwrap();
    assert_eq!(held.len(), 1);
    let rounds = pulls_in(&log, &pull, Duration::from_secs(2)).await;
    tx.rollback().await.unwrap();
    pull.wait().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    assert_eq!(pull.batch(&mut tx, 10).await.unwrap().len(), 1);
    drop(tx);
    assert!(rounds < 40, "{rounds} pulls in 2 s");
    log.close().await;
}

/// A person's payload stays where a puller fails the retry.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_outlives_a_failed_pull() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    Outbox::new().emit(&log.pool, &counted("k", 1)).await.unwrap();
    let mut payloads = Vec::new();
    let sequence = number(&log, "select max(sequence) from event_box.events").await;
    for round in 0..3 {
        let mut tx = log.pool.begin().await.unwrap();
        let mut batch = pull.batch(&mut tx, 10).await.unwrap();
        let event = batch.next().expect("an event");
        payloads.push(String::from_utf8_lossy(event.payload()).into_owned());
        batch.fail(&mut tx, event, BoxError::from("no")).await.unwrap();
        tx.commit().await.unwrap();
        let group = EventBox::from(&log).group("g");
        if round == 0 {
            let _ = group.edit(sequence, r#"{"key":"k","n":7}"#).await.unwrap();
        } else {
            let _ = group.requeue(crate::Selection::Event(sequence)).await.unwrap();
        }
    }
    assert_eq!(payloads[1..], [r#"{"key":"k","n":7}"#, r#"{"key":"k","n":7}"#]);
    log.close().await;
}

/// Two batches of one partition in one transaction, a failure in the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_an_earlier_batch_of_the_transaction_keeps_the_order_of_its_key() {
    let log = TestLog::new().await;
    let pull = PullBuilder::new(&log.pool, "g").event::<Counted>().open().await.unwrap();
    for n in 1..4 {
        Outbox::new().emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let mut tx = log.pool.begin().await.unwrap();
    let mut first = pull.batch(&mut tx, 1).await.unwrap();
    let event = first.next().unwrap();
    first.fail(&mut tx, event, BoxError::from("no")).await.unwrap();
    let second = pull.batch(&mut tx, 10).await.unwrap();
    assert!(second.is_empty(), "2 and 3 wait behind 1");
    tx.commit().await.unwrap();
    assert_eq!(number(&log, "select count(*) from event_box.parked where reason = 'waiting'").await, 2);
    log.close().await;
}
