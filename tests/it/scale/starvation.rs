//! Rounds are counted, not time: a round is one batch of each partition that is busy.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use event_box::{BoxError, Consumer, Context, Delivery, Detached};
use event_box_tests::{Counted, Noted, PATIENCE, Running, TestLog};
use sqlx::PgPool;
use tokio::sync::mpsc;

const PARTITIONS: usize = 64;
const BATCH: usize = 10;
/// So many batches has each partition to begin with.
const BACKLOG: usize = 40;

/// Which partition each batch was of, by its key.
type Order = Arc<Mutex<Vec<String>>>;

/// So many keys in each of the first partitions. What an event calls its key is the partition's number, and `n` counts in the partition.
async fn fill(pool: &PgPool, partitions: usize, keys: usize) {
    let insert = "
        with keys as (
            select partition, key, row_number() over (partition by partition) - 1 as place
            from (select hashtextextended('k' || i, 0) & 63 as partition, 'k' || i as key from generate_series(1, 10000) as i) as all_keys
        )
        insert into event_box.events (id, topic, partition_key, payload)
        select gen_random_uuid(), 'test.counted', key, json_build_object('key', partition::text, 'n', n)
        from generate_series(1, $2) as n join keys on place = n % $3 where partition < $1 order by n";
    sqlx::query(insert)
        .bind(partitions as i64)
        .bind((BACKLOG * BATCH) as i64)
        .bind(keys as i64)
        .execute(pool)
        .await
        .unwrap();
}

/// The most batches of others that a partition which had work left saw go before its next.
fn longest_wait(order: &[String]) -> usize {
    let mut longest = 0;
    for partition in 0..PARTITIONS {
        let name = partition.to_string();
        let places = order.iter().enumerate().filter(|(_, other)| **other == name).map(|(at, _)| at as i64);
        let places: Vec<_> = std::iter::once(-1).chain(places).collect();
        assert!(places.len() > BACKLOG, "partition {partition} had {} batches", places.len() - 1);
        longest = places.windows(2).map(|pair| (pair[1] - pair[0]) as usize - 1).max().unwrap_or(0).max(longest);
    }
    longest
}

async fn wait_for(log: &TestLog, order: &Order, batches: usize) {
    let (mut so_far, mut deadline) = (0, tokio::time::Instant::now() + PATIENCE);
    loop {
        let now = order.lock().unwrap().len();
        if now >= batches {
            break;
        }
        if now > so_far {
            (so_far, deadline) = (now, tokio::time::Instant::now() + PATIENCE);
        }
        assert!(tokio::time::Instant::now() < deadline, "{now} of {batches} batches");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    log.wait_until("select (not exists (select from event_box.parked))::int::bigint", 1).await;
}

async fn batch(run: Vec<Delivery<Counted>>, cx: &mut Context<'_, Order>) -> Result<(), BoxError> {
    cx.state().lock().unwrap().push(run[0].event.key.clone());
    Ok(())
}

/// One worker: of several, one that is slow would count as waiting.
async fn assert_turns(log: TestLog, order: Order, consumer: Consumer) {
    let running = Running::start(consumer);
    wait_for(&log, &order, PARTITIONS * BACKLOG).await;
    let longest = longest_wait(&order.lock().unwrap());
    println!("{PARTITIONS} busy partitions: {longest} batches of others at most between two of one");
    assert!(longest < 2 * PARTITIONS, "{longest} batches went first");
    running.stop().await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_partitions_take_turns() {
    let log = TestLog::new().await;
    fill(&log.pool, PARTITIONS, 1).await;
    let order = Order::default();
    let builder = Consumer::builder(&log.pool, "g").state(order.clone()).on_batch(batch).workers(1);
    let consumer = builder.batch_size(BATCH).build().unwrap();
    assert_turns(log, order, consumer).await;
}

/// Rounds of a concurrent group are offered more partitions than they take.
#[tokio::test(flavor = "multi_thread")]
async fn busy_partitions_of_a_concurrent_group_take_turns() {
    let log = TestLog::new().await;
    fill(&log.pool, PARTITIONS, BATCH / 2).await;
    let order = Order::default();
    let handler = async |event: Counted, cx: &mut Detached<'_, Order>| -> Result<(), BoxError> {
        if event.n % BATCH as i64 == 1 {
            cx.state().lock().unwrap().push(event.key);
        }
        Ok(())
    };
    let builder = Consumer::builder(&log.pool, "g").state(order.clone()).workers(1).batch_size(BATCH);
    let consumer = builder.concurrent(7).on(handler).build().unwrap();
    assert_turns(log, order, consumer).await;
}

struct Newcomer {
    pool: PgPool,
    report: mpsc::UnboundedSender<bool>,
}

/// One worker, a dozen partitions that always have more, and an event elsewhere that nobody announces: a look finds it, and it is next but
/// for those that wait already.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_event_waits_a_few_rounds_at_most() {
    const BUSY: usize = 12;
    let log = TestLog::new().await;
    fill(&log.pool, BUSY, 1).await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let handle = async |run: Vec<Delivery<Counted>>, cx: &mut Context<'_, Newcomer>| -> Result<(), BoxError> {
        cx.state().report.send(false)?;
        if run[0].event.key == "0" && run[0].event.n == 1 {
            // Committed at once, in a partition of its own.
            let key = "(select 'k' || i from generate_series(1, 10000) as i where hashtextextended('k' || i, 0) & 63 = 63 limit 1)";
            let emit = format!("select event_box.emit('test.noted', '{{\"text\": \"\"}}', {key})");
            sqlx::query(sqlx::AssertSqlSafe(emit)).execute(&cx.state().pool).await?;
        }
        Ok(())
    };
    let alone =
        async |_: Noted, cx: &mut Context<'_, Newcomer>| -> Result<(), BoxError> { Ok(cx.state().report.send(true)?) };
    let state = Newcomer { pool: log.pool.clone(), report };
    let builder = Consumer::builder(&log.pool, "g").state(state).on_batch(handle).on(alone);
    let builder = builder.workers(1).batch_size(BATCH).poll_interval(Duration::from_millis(1));
    let running = Running::start(builder.build().unwrap());
    let mut before = 0;
    while !tokio::time::timeout(PATIENCE, reports.recv()).await.expect("in time").unwrap() {
        before += 1;
    }
    println!("{before} batches of {BUSY} busy partitions before a newcomer");
    assert!(before <= 4 * BUSY, "{before} batches went first");
    running.stop().await.unwrap();
    log.close().await;
}
