use std::time::Duration;

use event_box::{BoxError, Consumer, Context, EventBox, Mode};
use event_box_tests::{Counted, Running, Seen, TestLog, wait_until_seen};

async fn count(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

async fn consume(log: &TestLog, total: i64) {
    let running = Running::start(Consumer::builder(&log.pool, "g").on(count).build().unwrap());
    wait_until_seen(&log.pool, "g", total).await;
    running.stop().await.unwrap();
}

fn events(key: &str, numbers: std::ops::RangeInclusive<i64>) -> Vec<Counted> {
    numbers.map(|n| Counted { key: key.to_owned(), n }).collect()
}

#[tokio::test]
async fn health_counts_late_and_fresh_events_of_the_groups_topics() {
    let log = TestLog::new().await;
    log.sql(Seen::TABLE).await;
    let group = EventBox::from(&log.pool).group("g");
    log.outbox.emit_all(&log.pool, &events("k", 1..=3)).await.unwrap();
    let mut late = log.pool.begin().await.unwrap();
    log.outbox.emit_all(&mut *late, &events("k", 4..=5)).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("k", 6..=6)).await.unwrap();
    consume(&log, 4).await;
    let health = group.health().await.unwrap();
    assert_eq!((health.pending(), health.oldest(), health.partitions.len()), (0, None, 64));
    late.commit().await.unwrap();
    log.sql("select event_box.emit('test.other', '{}', 'k')").await;
    log.outbox.emit_all(&log.pool, &events("k", 7..=9)).await.unwrap();
    log.outbox.emit_all(&log.pool, &events("elsewhere", 1..=1)).await.unwrap();
    log.sql("update event_box.events set erased_at = now() where sequence = (select max(sequence) from event_box.events where partition_key = 'k')")
        .await;
    log.sql("update event_box.events set emitted_at = now() - interval '1 hour' where sequence = 4").await;
    // What was handled already is older, and counts for nothing.
    log.sql("update event_box.events set emitted_at = now() - interval '1 day' where sequence = 1").await;
    let health = group.health().await.unwrap();
    assert_eq!(health.pending(), 5, "two late, two fresh of the key, one elsewhere");
    assert!(!health.more());
    let oldest = health.oldest().unwrap();
    assert!((3600..3700).contains(&oldest.as_secs()), "{oldest:?}");
    let partition = health.partitions.iter().find(|partition| partition.pending == 4).unwrap();
    assert_eq!(partition.position, 6);
    assert!(health.partitions.iter().all(|partition| partition.held_by.is_none()));
    consume(&log, 9).await;
    assert_eq!(group.health().await.unwrap().pending(), 0);
    log.close().await;
}

#[tokio::test]
async fn health_stops_counting_and_says_so() {
    let log = TestLog::new().await;
    let running = Running::start(Consumer::builder(&log.pool, "g").on(count).build().unwrap());
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    running.stop().await.unwrap();
    log.outbox.emit_all(&log.pool, &events("k", 1..=9_999)).await.unwrap();
    let group = EventBox::from(&log.pool).group("g");
    let health = group.health().await.unwrap();
    assert_eq!((health.pending(), health.more()), (9_999, false));
    log.outbox.emit_all(&log.pool, &events("k", 1..=2)).await.unwrap();
    let health = group.health().await.unwrap();
    assert_eq!((health.pending(), health.more()), (10_000, true));
    log.close().await;
}

#[tokio::test]
async fn health_counts_parked_events_by_state_and_names_who_holds_a_partition() {
    let log = TestLog::new().await;
    let running = Running::start(Consumer::builder(&log.pool, "g").on(count).build().unwrap());
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    running.stop().await.unwrap();
    log.sql(
        "insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, due_at, dead_at, holds_key)
         values ('g', 1, 1, 't', 'a', 'failed', now(), null, false), ('g', 1, 2, 't', 'a', 'waiting', null, null, false),
                ('g', 1, 3, 't', 'a', 'failed', now(), null, false), ('g', 2, 4, 't', 'b', 'failed', null, now(), true),
                ('g', 2, 5, 't', 'b', 'waiting', null, null, false), ('g', 3, 6, 't', 'c', 'failed', null, now(), false),
                ('g', 3, 7, 't', 'c', 'waiting', now(), null, false), ('g', 4, 8, 't', null, 'failed', now(), null, false),
                ('g', 4, 9, 't', null, 'failed', null, now(), false), ('g', 4, 10, 't', null, 'snoozed', now(), null, false),
                ('g', 4, 11, 't', null, 'no_handler', null, null, false), ('other', 4, 12, 't', null, 'failed', now(), null, false)",
    )
    .await;
    let group = EventBox::from(&log.pool).group("g");
    let mut holder = log.pool.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar(
        "with named as materialized (select set_config('application_name', 'holder', true))
         select pg_backend_pid() from event_box.cursors, named where group_name = 'g' and partition = 7 for update of cursors",
    )
    .fetch_one(&mut *holder)
    .await
    .unwrap();
    group.pause().await.unwrap();
    let health = group.health().await.unwrap();
    assert_eq!((health.retrying, health.waiting, health.snoozed, health.no_handler, health.dead), (3, 3, 1, 1, 3));
    assert_eq!(health.blocked_keys, 3);
    assert!(health.paused_at.is_some());
    assert_eq!(health.mode, Some(Mode::Transactional));
    let held: Vec<_> =
        health.partitions.iter().filter_map(|partition| Some((partition, partition.held_by.as_ref()?))).collect();
    let [(partition, by)] = held[..] else { panic!("{held:#?}") };
    assert_eq!((partition.partition, by.pid), (7, pid));
    assert_eq!((by.application_name.as_deref(), by.state.as_deref()), (Some("holder"), Some("idle in transaction")));
    let open_for = by.transaction_started.unwrap().elapsed().unwrap_or_default();
    assert!(open_for < Duration::from_secs(3600), "{open_for:?}");
    // An advance that is not committed yet holds it as well.
    sqlx::raw_sql("update event_box.cursors set advanced_at = now() where group_name = 'g' and partition = 7")
        .execute(&mut *holder)
        .await
        .unwrap();
    let held = group.health().await.unwrap().partitions[7].held_by.as_ref().map(|by| by.pid);
    assert_eq!(held, Some(pid));
    holder.commit().await.unwrap();
    assert!(group.health().await.unwrap().partitions.iter().all(|partition| partition.held_by.is_none()));
    log.close().await;
}
