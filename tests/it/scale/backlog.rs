//! What gathered while a consumer was down, in a process of its own whose memory is measured.

use std::time::Instant;

use event_box_tests::{Drained, TestLog, full, wait_until_drained};
use sqlx::PgPool;

use super::{MIB, Member};

/// What a member with 4 workers and batches of 1,000 may hold, 8 MiB of payloads each.
const BUDGET: u64 = 4 * 8 * MIB;

/// Events of a thousand keys, each key's next.
async fn gather(pool: &PgPool, from: i64, to: i64) {
    let insert = "
        insert into event_box.events (id, topic, partition_key, payload)
        select gen_random_uuid(), 'test.counted', 'k' || i % 1000, format('{\"key\":\"k%s\",\"n\":%s}', i % 1000, i / 1000 + 1)::json
        from generate_series($1, $2 - 1) as i";
    sqlx::query(insert).bind(from).bind(to).execute(pool).await.unwrap();
}

/// Drains a group in a process of its own; answers with its peak memory.
async fn drain(log: &TestLog, group: &str, events: i64) -> u64 {
    let began = Instant::now();
    let member = Member::spawn(log, group);
    wait_until_drained(&log.pool, group, events).await;
    let (took, peak) = (began.elapsed().as_secs_f64(), member.peak());
    assert!(member.terminate().success());
    let rate = events as f64 / took;
    println!(
        "{group}: {events} events in {took:.1} s, {rate:.0} a second, {:.1} MiB at most",
        peak as f64 / MIB as f64
    );
    peak
}

/// However much there is, it goes out in order, and what the process holds does not grow with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_drains_in_order_with_flat_memory() {
    let events = if full() { 1_000_000 } else { 200_000 };
    let log = TestLog::new().await;
    sqlx::raw_sql(Drained::TABLE).execute(&log.pool).await.unwrap();
    gather(&log.pool, 0, events / 10).await;
    let tenth = drain(&log, "tenth", events / 10).await;
    gather(&log.pool, events / 10, events).await;
    let whole = drain(&log, "whole", events).await;
    let each = sqlx::query_scalar::<_, i64>("select distinct n from drained where grp = 'whole'");
    assert_eq!(each.fetch_all(&log.pool).await.unwrap(), [events / 1_000], "each key to its end");
    assert!(whole <= tenth + tenth / 4 + 8 * MIB, "{whole} bytes for ten times what took {tenth}");
    assert!(whole < BUDGET + 32 * MIB, "{whole} bytes");
    log.close().await;
}

/// Batches end at the byte budget, and a process holds a few times that for each worker: as it came, and as the handler has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_events_of_a_mebibyte_stay_within_the_byte_budget() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Drained::TABLE).execute(&log.pool).await.unwrap();
    let each = if full() { 125 } else { 25 };
    let insert = "
        insert into event_box.events (id, topic, partition_key, payload)
        select gen_random_uuid(), 'test.bulky', 'k' || key, format('{\"key\":\"k%s\",\"n\":%s,\"bulk\":\"%s\"}', key, n, repeat('b', 1048576))::json
        from generate_series(1, $1) as n, generate_series(1, 8) as key order by n";
    sqlx::query(insert).bind(each).execute(&log.pool).await.unwrap();
    let peak = drain(&log, "bulk", 8 * i64::from(each)).await;
    let (runs, longest): (i64, i64) =
        sqlx::query_as("select count(*), max(events) from runs").fetch_one(&log.pool).await.unwrap();
    println!("{runs} runs of {longest} events at most");
    assert_eq!(longest, 8, "8 MiB and no event more");
    assert!(peak < 5 * BUDGET + 32 * MIB, "{peak} bytes");
    log.close().await;
}

/// What travels beside a payload counts as well.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_mebibyte_stay_within_the_byte_budget() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Drained::TABLE).execute(&log.pool).await.unwrap();
    let insert = "
        insert into event_box.events (id, topic, partition_key, payload, headers)
        select gen_random_uuid(), 'test.counted', 'k', format('{\"key\":\"k\",\"n\":%s}', n)::json, format('{\"h\":\"%s\"}', repeat('h', 1048576))::json
        from generate_series(1, 40) as n";
    sqlx::query(insert).execute(&log.pool).await.unwrap();
    drain(&log, "headers", 40).await;
    let longest: i64 = sqlx::query_scalar("select max(events) from runs").fetch_one(&log.pool).await.unwrap();
    assert_eq!(longest, 8, "8 MiB and no event more");
    log.close().await;
}
