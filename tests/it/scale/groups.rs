use event_box::{BoxError, Consumer, Context, Delivery, EventBox};
use event_box_tests::{Counted, Drained, Running, TestLog, wait_until_drained};

const GROUPS: usize = 10;
const EVENTS: i64 = 20_000;

async fn note(run: Vec<Delivery<Counted>>, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Drained::note(run.iter().map(|delivery| (delivery.event.key.as_str(), delivery.event.n)), cx).await
}

/// Each gets every event, while they are emitted; the process listens and polls once for all.
#[tokio::test(flavor = "multi_thread")]
async fn ten_groups_of_one_process_each_get_everything() {
    let log = TestLog::new().await;
    sqlx::raw_sql(Drained::TABLE).execute(&log.pool).await.unwrap();
    let shared = EventBox::new(log.pool.clone());
    let consumer = |i| Consumer::builder(&shared, format!("g{i}")).on_batch(note).workers(1).max_attempts(1);
    let running: Vec<_> = (0..GROUPS).map(|i| Running::start(consumer(i).build().unwrap())).collect();
    for from in (0..EVENTS).step_by(500) {
        let events: Vec<_> =
            (from..from + 500).map(|i| Counted { key: format!("k{}", i % 100), n: i / 100 + 1 }).collect();
        log.outbox.emit_all(&log.pool, &events).await.unwrap();
    }
    for i in 0..GROUPS {
        wait_until_drained(&log.pool, &format!("g{i}"), EVENTS).await;
    }
    let listening = "select count(*) from pg_stat_activity where datname = current_database() and query like 'LISTEN%'";
    assert_eq!(log.number(listening).await, 1);
    println!("{GROUPS} groups of {EVENTS} events in {} runs", log.number("select count(*) from runs").await);
    for consumer in running {
        consumer.stop().await.unwrap();
    }
    let ends = "select count(distinct n) from drained where n = 200 having count(*) = 1000";
    assert_eq!(log.number(ends).await, 1, "each key of each group to its end");
    log.close().await;
}
