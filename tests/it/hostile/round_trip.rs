use std::{collections::BTreeMap, time::Duration};

use event_box::{BoxError, Consumer, Context, Delivery, Detached, Event, EventInfo, PullBuilder};
use event_box_tests::{PATIENCE, Running, TestLog};
use proptest::{prelude::*, sample::select};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{documents, drawn, events::Raw};

/// What is to arrive: topic, key, payload, headers.
type Arrival = (String, Option<String>, Vec<u8>, Vec<(String, String)>);
type Reports = mpsc::UnboundedSender<(Uuid, Arrival)>;

/// An event and its header `value`.
type Case = (Raw, String);

fn cases() -> Vec<Case> {
    let topic = || select(Raw::TOPICS);
    let key = || proptest::option::of(prop_oneof!["[^\\x00]{1,100}", "['\"\\\\$%{}; -]{1,20}", "[a-z]{512}"]);
    let value = || prop_oneof![any::<String>(), Just("\0\u{1F600}'\"\\".to_owned())];
    let notable = documents::notable();
    let count = notable.len() as u32;
    let with = drawn(count, (topic(), key(), value()));
    let mut cases: Vec<_> = notable.into_iter().zip(with).collect();
    cases.extend(drawn(100, (documents::document(), (topic(), key(), value()))));
    let case = |(payload, (topic, key, value)): (String, (&'static str, Option<String>, String))| {
        (Raw { topic, key, payload: payload.into_bytes() }, value)
    };
    cases.into_iter().map(case).collect()
}

fn arrival((event, value): &Case) -> Arrival {
    let headers = vec![("value".to_owned(), value.clone())];
    (event.topic.to_owned(), event.key.clone(), event.payload.clone(), headers)
}

fn received(info: &EventInfo<'_>, event: Raw) -> (Uuid, Arrival) {
    let headers = info.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (info.id(), (info.topic().to_owned(), info.partition_key().map(str::to_owned), event.payload, headers))
}

/// By every way there is.
async fn emit(log: &TestLog, cases: &[Case]) -> BTreeMap<Uuid, Arrival> {
    let mut expected = BTreeMap::new();
    let mut connection = log.pool.acquire().await.unwrap();
    for case @ (event, value) in cases {
        let outbox = log.outbox.clone().header("value", value);
        expected.insert(outbox.emit(&log.pool, event).await.unwrap(), arrival(case));
        let later = outbox.emit(&log.pool, event).delay(Duration::from_millis(1)).await.unwrap();
        expected.insert(later, arrival(case));
        for id in outbox.emit_all(&log.pool, [event, event]).await.unwrap() {
            expected.insert(id, arrival(case));
        }
        for id in outbox.copy(&mut connection, [event, event]).await.unwrap() {
            expected.insert(id, arrival(case));
        }
        for call in [
            "select event_box.emit($1, $2::text::json, $3, $4::text::json, id => $5)",
            "select event_box.emit_at(now(), $1, $2::text::json, $3, $4::text::json, id => $5)",
        ] {
            let (id, payload) = (Uuid::now_v7(), String::from_utf8(event.payload.clone()).unwrap());
            let headers = serde_json::to_string(&BTreeMap::from([("value", value)])).unwrap();
            let call = sqlx::query(call).bind(event.topic).bind(payload).bind(&event.key).bind(headers).bind(id);
            call.execute(&log.pool).await.unwrap();
            expected.insert(id, arrival(case));
        }
    }
    expected
}

async fn one(event: Raw, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(received(cx, event))?)
}

async fn run(events: Vec<Delivery<Raw>>, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    for delivery in events {
        cx.state().send(received(&delivery.info(), delivery.event.clone()))?;
    }
    Ok(())
}

async fn detached(event: Raw, cx: &mut Detached<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(received(cx, event))?)
}

async fn pull_all(pool: &PgPool, events: usize) -> BTreeMap<Uuid, Arrival> {
    let pull = PullBuilder::new(pool, "pull").event::<Raw>().open().await.unwrap();
    let mut arrived = BTreeMap::new();
    while arrived.len() < events {
        let mut tx = pool.begin().await.unwrap();
        let batch = pull.batch(&mut tx, 100).await.unwrap();
        assert!(!batch.is_empty(), "{} of {events}", arrived.len());
        for event in batch {
            let headers = event.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let key = event.partition_key().map(str::to_owned);
            arrived.insert(event.id(), (event.topic().to_owned(), key, event.payload().to_vec(), headers));
        }
        tx.commit().await.unwrap();
    }
    arrived
}

fn assert_the_same(way: &str, arrived: &BTreeMap<Uuid, Arrival>, expected: &BTreeMap<Uuid, Arrival>) {
    for (id, expected) in expected {
        let arrived = arrived.get(id).unwrap_or_else(|| panic!("{way}: {expected:?} did not arrive"));
        assert!(arrived == expected, "{way}: {expected:?}\narrived as\n{arrived:?}");
    }
    assert_eq!(arrived.len(), expected.len(), "{way}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_byte_for_byte_by_every_way() {
    let log = TestLog::new().await;
    let expected = emit(&log, &cases()).await;
    for way in ["one", "run", "detached"] {
        let (report, mut reports) = mpsc::unbounded_channel();
        let consumer = match way {
            "one" => Consumer::builder(&log.pool, way).state(report).on(one).build(),
            "run" => Consumer::builder(&log.pool, way).state(report).on_batch(run).build(),
            _ => Consumer::builder(&log.pool, way).state(report).concurrent(8).on(detached).build(),
        };
        let running = Running::start(consumer.unwrap());
        let mut arrived = BTreeMap::new();
        while arrived.len() < expected.len() {
            let next = tokio::time::timeout(PATIENCE, reports.recv()).await;
            let (id, arrival) = next.unwrap_or_else(|_| panic!("{way}: {} arrived", arrived.len())).unwrap();
            arrived.insert(id, arrival);
        }
        running.stop().await.unwrap();
        assert_the_same(way, &arrived, &expected);
    }
    assert_the_same("pull", &pull_all(&log.pool, expected.len()).await, &expected);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    println!("{} events", expected.len());
    log.close().await;
}
