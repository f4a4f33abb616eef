use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use event_box::{Backoff, BoxError, Consumer, Context, Delivery, Failed};
use event_box_tests::{Counted, Drained, Running, TestLog, wait_until_drained};

const COLD: i64 = 10_000;
const HOT: i64 = 2_000;

/// The hot key's events are not handled as long as this says so.
type HotIsIll = Arc<AtomicBool>;

async fn note(run: Vec<Delivery<Counted>>, cx: &mut Context<'_, HotIsIll>) -> Result<Vec<Failed>, BoxError> {
    let ill = cx.state().load(Ordering::Relaxed);
    let (failed, handled): (Vec<_>, Vec<_>) = run.iter().partition(|delivery| ill && delivery.event.key == "hot");
    Drained::note(handled.iter().map(|delivery| (delivery.event.key.as_str(), delivery.event.n)), cx).await?;
    Ok(failed.iter().map(|delivery| delivery.failed("not yet")).collect())
}

/// In the partition of `hot`: ten thousand keys with an event each, and a fifth as many of `hot` between them.
async fn emit(log: &TestLog) {
    let insert = "
        insert into event_box.events (id, topic, partition_key, payload)
        select gen_random_uuid(), 'test.counted', key, json_build_object('key', key, 'n', n)
        from (
            (select 'k' || i as key, 1 as n, row_number() over (order by i) as place from generate_series(1, 1000000) as i
             where hashtextextended('k' || i, 0) & 63 = hashtextextended('hot', 0) & 63 limit $1)
            union all
            select 'hot', n, n * $1 / $2 from generate_series(1, $2) as n
        ) as event order by place, n";
    sqlx::query(insert).bind(COLD).bind(HOT).execute(&log.pool).await.unwrap();
}

/// A key with every sixth event of its partition, healthy at first, then ill: the ten thousand beside it go on, and it drains in order
/// when it is well again.
async fn a_hot_key(ill: bool) {
    let log = TestLog::new().await;
    sqlx::raw_sql(Drained::TABLE).execute(&log.pool).await.unwrap();
    emit(&log).await;
    assert_eq!(log.number("select count(distinct partition) from event_box.events").await, 1);
    let hot_is_ill = HotIsIll::new(ill.into());
    let consumer = Consumer::builder(&log.pool, "g").state(hot_is_ill.clone()).on_batch(note).max_attempts(1_000);
    let consumer = consumer.backoff(Backoff::fixed(Duration::from_millis(50)));
    let running = Running::start(consumer.build().unwrap());
    if ill {
        wait_until_drained(&log.pool, "g", COLD).await;
        assert_eq!(log.number("select count(*) from drained where key = 'hot' and n > 0").await, 0);
        let parked = log.number("select count(*) from event_box.parked where partition_key = 'hot'").await;
        let runs = log.number("select count(*) from runs").await;
        println!("{COLD} cold keys in {runs} runs, past {parked} parked events of the hot one");
        assert_eq!(parked, HOT, "they wait");
        hot_is_ill.store(false, Ordering::Relaxed);
    }
    wait_until_drained(&log.pool, "g", COLD + HOT).await;
    running.stop().await.unwrap();
    println!("all in {} runs", log.number("select count(*) from runs").await);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_goes_out_in_order_beside_ten_thousand_cold_ones() {
    a_hot_key(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_that_fails_keeps_none_of_ten_thousand_cold_ones_waiting() {
    a_hot_key(true).await;
}
