use std::time::{Duration, Instant};

use event_box::{BoxError, Consumer, Context, Outbox, PullBuilder};
use event_box_tests::{Counted, Running, Seen, keys_of_one_partition, seen_by, wait_until_seen};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::own::Own;

const OPEN: i64 = 2_000;
const ADVANCES: i64 = 200;

async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

/// Bytes of write-ahead log, and time, that an advance takes: a pull of one event and its commit.
async fn cost_of_an_advance(own: &Own, key: &str) -> i64 {
    let pull = PullBuilder::new(&own.pool, "measured").event::<Counted>().open().await.unwrap();
    let mut connection = own.pool.acquire().await.unwrap();
    let wal = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
    let (mut bytes, mut time) = (0, Duration::ZERO);
    for n in 1..=ADVANCES {
        Outbox::new().notify(false).emit(&own.pool, &Counted { key: key.to_owned(), n }).await.unwrap();
        let (before, began) = (own.number(wal).await, Instant::now());
        let mut tx = connection.begin().await.unwrap();
        let mut batch = pull.batch(&mut tx, 1).await.unwrap();
        assert_eq!(batch.next().expect("the event").decode::<Counted>().unwrap().n, n);
        tx.commit().await.unwrap();
        time += began.elapsed();
        bytes += own.number(wal).await - before;
    }
    println!("an advance: {} bytes of WAL, {:?}", bytes / ADVANCES, time / ADVANCES as u32);
    bytes / ADVANCES
}

/// Each has emitted an event, and is prepared: it counts as open in every snapshot, as one on a connection of its own does.
async fn open_many(own: &Own) {
    let mut connection = PgConnection::connect(own.url()).await.unwrap();
    for i in 1..=OPEN {
        let event = format!("select event_box.emit('test.counted', '{{\"key\": \"late{i}\", \"n\": 1}}', 'late{i}')");
        let transaction = format!("begin; {event}; prepare transaction 't{i}'");
        sqlx::raw_sql(AssertSqlSafe(transaction)).execute(&mut connection).await.unwrap();
    }
}

async fn commit_all(own: &Own) {
    let mut connection = PgConnection::connect(own.url()).await.unwrap();
    for i in 1..=OPEN {
        let commit = format!("commit prepared 't{i}'");
        sqlx::raw_sql(AssertSqlSafe(commit)).execute(&mut connection).await.unwrap();
    }
}

/// Two thousand at once delay nothing, lose nothing, and cost an advance some kilobytes.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_open_transactions_cost_an_advance_some_kilobytes() {
    let own = Own::new(OPEN + 10).await;
    let keys = keys_of_one_partition(&own.pool, 2).await;
    let alone = cost_of_an_advance(&own, &keys[0]).await;
    open_many(&own).await;
    // A snapshot names those that began before the last which has ended.
    own.number("select pg_current_xact_id()::text::bigint").await;
    let open = own.number("select count(*) from pg_snapshot_xip(pg_current_snapshot())").await;
    assert!(open >= OPEN, "{open} transactions are open");
    println!("beside {open} open transactions:");
    let beside = cost_of_an_advance(&own, &keys[1]).await;
    let cursor = own.number("select max(pg_column_size(c.*))::bigint from event_box.cursors as c").await;
    println!(
        "a cursor has {cursor} bytes, their table {}",
        own.number("select pg_total_relation_size('event_box.cursors')").await
    );
    assert!(beside < alone + 32 * 1024, "{beside} bytes instead of {alone}");
    let running = Running::start(Consumer::builder(&own.pool, "g").on(note).workers(2).build().unwrap());
    wait_until_seen(&own.pool, "g", 2 * ADVANCES).await;

    commit_all(&own).await;
    wait_until_seen(&own.pool, "g", 2 * ADVANCES + OPEN).await;
    running.stop().await.unwrap();
    let seen = seen_by(&own.pool, "g").await;
    assert_eq!(seen.len() as i64, OPEN + 2);
    for (key, numbers) in seen {
        let last = if key.starts_with("late") { 1 } else { ADVANCES };
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{key}");
    }
    own.close().await;
}
