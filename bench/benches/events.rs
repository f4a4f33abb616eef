//! What an event costs the process itself: the derive's serialisation, decoding, and the way from the batch to the handler.
//!
//! `cargo bench --package event-box-bench`. Dispatch has no way in but a real batch, so a PostgreSQL is started for it; what is timed is only
//! what runs between a middleware's call and its return, in which there is no statement.

use std::{
    borrow::Cow,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use event_box::{BoxError, Consumer, Context, Event, EventBox, Failure, Middleware, Next, Outbox, testing};
use event_box_dev::{Server, ServerOptions};
use serde::{Deserialize, Serialize};

/// About 150 bytes of JSON.
#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
struct OrderPlaced {
    order_id: i64,
    customer: String,
    total_cents: i64,
    currency: String,
    note: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.cancelled", partition_key = "order_id")]
struct OrderCancelled {
    order_id: i64,
}

/// A union: decoding chooses by topic.
#[derive(Event)]
enum OrderEvent {
    Placed(OrderPlaced),
    Cancelled(OrderCancelled),
}

#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.shipped", partition_key = "order_id")]
struct OrderShippedV1 {
    order_id: i64,
    carrier: String,
}

/// A second version: what is stored in the first is converted.
#[derive(Serialize, Deserialize, Event)]
#[event(topic = "orders.shipped", partition_key = "order_id", version = 2, previous = OrderShippedV1)]
struct OrderShipped {
    order_id: i64,
    carriers: Vec<String>,
}

impl From<OrderShippedV1> for OrderShipped {
    fn from(old: OrderShippedV1) -> Self {
        Self { order_id: old.order_id, carriers: vec![old.carrier] }
    }
}

fn order(order_id: i64) -> OrderPlaced {
    let (customer, note) = ("00000000-0000-0000-0000-000000000000".to_owned(), "please ring twice".to_owned());
    OrderPlaced { order_id, customer, total_cents: 12_345, currency: "EUR".to_owned(), note }
}

fn serialisation(criterion: &mut Criterion) {
    let event = order(7);
    criterion.bench_function("encode: what emit takes of an event", |bencher| {
        bencher.iter(|| {
            let event = black_box(&event);
            let key = event.partition_key().map(Cow::into_owned);
            (event.topic(), event.version(), key, event.encode().expect("is JSON"))
        });
    });
    let union = OrderEvent::Placed(order(7));
    criterion.bench_function("encode: through an enum", |bencher| {
        bencher.iter(|| (black_box(&union).topic(), black_box(&union).encode().expect("is JSON")));
    });
}

fn decoding(criterion: &mut Criterion) {
    let payload = order(7).encode().expect("is JSON");
    criterion.bench_function("decode: a struct", |bencher| {
        bencher.iter(|| OrderPlaced::decode("orders.placed", 1, black_box(&payload)).expect("fits"));
    });
    criterion.bench_function("decode: an enum's variant by topic", |bencher| {
        bencher.iter(|| OrderEvent::decode("orders.placed", 1, black_box(&payload)).expect("fits"));
    });
    let old = OrderShippedV1 { order_id: 7, carrier: "post".to_owned() }.encode().expect("is JSON");
    criterion.bench_function("decode: the version before, converted", |bencher| {
        bencher.iter(|| OrderShipped::decode("orders.shipped", 1, black_box(&old)).expect("fits"));
    });
    criterion.bench_function("decode: a payload that does not fit", |bencher| {
        let wrong = || br#"{"order_id": "seven"}"#.to_vec();
        bencher.iter_batched(
            wrong,
            |wrong| OrderPlaced::decode("orders.placed", 1, &wrong).is_err(),
            BatchSize::SmallInput,
        );
    });
}

const EVENTS: u64 = 5_000;

/// Around every delivery: how long it took.
struct Timed(Arc<AtomicU64>);

impl Middleware for Timed {
    async fn deliver(&self, cx: &mut Context<'_>, next: Next<'_>) -> Result<(), Failure> {
        let started = Instant::now();
        let answer = next.run(cx).await;
        self.0.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        answer
    }
}

async fn ignore(event: OrderPlaced, _: &mut Context<'_>) -> Result<(), BoxError> {
    black_box(event);
    Ok(())
}

fn dispatch(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = Server::start(&ServerOptions::new().setting("fsync", "off")).expect("a server");
    let spent = Arc::new(AtomicU64::new(0));
    let (database, log, consumer) = runtime.block_on(async {
        let database = server.create_database("dispatch").await.expect("a database");
        let pool = database.pool(8).await.expect("a pool");
        event_box::migrate(&pool).await.expect("migrates");
        let events: Vec<_> = (0..EVENTS as i64).map(order).collect();
        Outbox::new().emit_all(&pool, &events).await.expect("emits");
        let builder = Consumer::builder(&pool, "dispatch").middleware(Timed(spent.clone()));
        let consumer = builder.on(ignore).retention(None).build().expect("builds");
        let drained = testing::drain(&consumer).await.expect("drains");
        assert_eq!(drained.handled as u64, EVENTS);
        (database, EventBox::new(pool), consumer)
    });
    let mut group = criterion.benchmark_group("dispatch");
    // Every sample is a replay through the server, of which only the handlers' part is timed.
    group.sample_size(10).warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_millis(500));
    group.bench_function("from the middleware to the handler, decoding included", |bencher| {
        bencher.iter_custom(|iterations| {
            runtime.block_on(async {
                spent.store(0, Ordering::Relaxed);
                let mut handled = 0;
                while handled < iterations {
                    log.group("dispatch").replay_all().await.expect("replays");
                    handled += testing::drain(&consumer).await.expect("drains").handled as u64;
                }
                let each = spent.load(Ordering::Relaxed) as f64 / handled as f64;
                Duration::from_secs_f64(each * iterations as f64 / 1e9)
            })
        });
    });
    group.finish();
    runtime.block_on(async {
        log.pool().close().await;
        database.close().await.expect("drops it");
    });
}

criterion_group!(events, serialisation, decoding, dispatch);
criterion_main!(events);
