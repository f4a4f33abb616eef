mod failing;

use std::{collections::HashMap, sync::Mutex, time::Duration};

use event_box::{
    Backoff, BoxError, BuildError, Consumer, Context, Delivery, EventInfo, Failed, Failure, Middleware, Next, Outbox,
};
use event_box_tests::{
    Counted, Running, Seen, Tallied, TestLog, assert_each_once_in_order, keys_of_one_partition, seen_by,
    wait_until_seen,
};

async fn log() -> TestLog {
    let log = TestLog::new().await;
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log
}

/// Writes a run in one statement.
async fn write<S: Sync>(events: &[Delivery<Counted>], cx: &mut Context<'_, S>) -> Result<(), sqlx::Error> {
    let keys: Vec<_> = events.iter().map(|delivery| delivery.event.key.clone()).collect();
    let numbers: Vec<_> = events.iter().map(|delivery| delivery.event.n).collect();
    let insert = "insert into seen (member, grp, key, n)
                  select 'run', $1, key, n from unnest($2::text[], $3::bigint[]) with ordinality as u (key, n, i) order by i";
    sqlx::query(insert).bind(cx.group()).bind(keys).bind(numbers).execute(&mut *cx).await?;
    Ok(())
}

async fn emit(log: &TestLog, keys: &[String], numbers: std::ops::RangeInclusive<i64>) {
    let events: Vec<_> = numbers.flat_map(|n| keys.iter().map(move |key| Counted { key: key.clone(), n })).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
}

/// The lengths of the runs that were handed over, in order.
#[derive(Default)]
struct Calls(Mutex<Vec<usize>>);

impl Calls {
    fn note(&self, events: usize) {
        self.0.lock().unwrap().push(events);
    }

    fn lengths(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_handler_is_given_all_its_events_of_a_batch_at_once() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 5).await;
    emit(&log, &keys, 1..=100).await;
    let calls: &'static Calls = Box::leak(Box::default());
    let consumer = Consumer::builder(&log.pool, "g")
        .state(calls)
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_, &'static Calls>| {
            cx.state().note(events.len());
            assert_eq!(events[0].info().id(), cx.id(), "the context tells of the first");
            assert_eq!(cx.events().count(), events.len());
            assert!(cx.events().zip(&events).all(|(info, delivery)| info.sequence() == delivery.info().sequence()));
            write(&events, cx).await
        })
        .batch_size(200)
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 500).await;
    running.stop().await.unwrap();
    assert_eq!(calls.lengths(), [200, 200, 100]);
    let all: Vec<i64> = (1..=100).collect();
    assert!(seen_by(&log.pool, "g").await.into_iter().all(|(_, numbers)| numbers == all));
    log.close().await;
}

/// Of each key in turn one for the batch handler and one for another: no key is overtaken, and what does not share a key stays together.
#[tokio::test]
async fn a_run_ends_where_an_event_for_another_handler_shares_a_key_with_it() {
    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 3).await;
    let (a, b, c) = (&keys[0], &keys[1], &keys[2]);
    let mut tx = log.pool.begin().await.unwrap();
    let counted = |key: &str, n| Counted { key: key.to_owned(), n };
    let tallied = |key: &str, n| Tallied { key: key.to_owned(), n };
    for n in 1..=4 {
        log.outbox.emit(&mut *tx, &counted(a, n)).await.unwrap();
    }
    // Nothing of this key waits: it does not end the run.
    log.outbox.emit(&mut *tx, &tallied(b, 1)).await.unwrap();
    log.outbox.emit(&mut *tx, &counted(c, 1)).await.unwrap();
    log.outbox.emit(&mut *tx, &counted(b, 2)).await.unwrap();
    // This one does.
    log.outbox.emit(&mut *tx, &tallied(a, 5)).await.unwrap();
    log.outbox.emit(&mut *tx, &counted(a, 6)).await.unwrap();
    log.outbox.emit(&mut *tx, &counted(c, 2)).await.unwrap();
    tx.commit().await.unwrap();
    let calls: &'static Calls = Box::leak(Box::default());
    let consumer = Consumer::builder(&log.pool, "g")
        .state(calls)
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_, &'static Calls>| {
            cx.state().note(events.len());
            write(&events, cx).await
        })
        .on(tally)
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 10).await;
    running.stop().await.unwrap();
    assert_eq!(calls.lengths(), [6, 2]);
    let mut expected = vec![(a.clone(), vec![1, 2, 3, 4, 5, 6]), (b.clone(), vec![1, 2]), (c.clone(), vec![1, 2])];
    expected.sort();
    assert_eq!(seen_by(&log.pool, "g").await, expected);
    log.close().await;
}

async fn tally<S: Sync>(event: Tallied, cx: &mut Context<'_, S>) -> Result<(), sqlx::Error> {
    Seen::note("single", &Counted { key: event.key, n: event.n }, cx).await
}

struct ByTenant;

impl<S: Sync + 'static> Middleware<S> for ByTenant {
    async fn deliver(&self, cx: &mut Context<'_, S>, next: Next<'_, S>) -> Result<(), Failure> {
        let tenant = cx.headers().get("tenant").unwrap_or_default();
        sqlx::query("select set_config('app.tenant', $1, true)").bind(tenant).execute(&mut *cx).await?;
        next.run(cx).await
    }

    fn together(&self, first: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
        first.headers().get("tenant") == next.headers().get("tenant")
    }
}

#[tokio::test]
async fn middleware_says_what_may_not_be_in_one_run() {
    let log = log().await;
    log.sql("create table owned (tenant text not null default current_setting('app.tenant'), n bigint not null)").await;
    let keys = keys_of_one_partition(&log.pool, 1).await;
    let calls: &'static Calls = Box::leak(Box::default());
    let tenants = [Some("acme"), Some("acme"), None, Some("zenith"), Some("acme"), None, None];
    for (tenant, n) in tenants.iter().zip(1..) {
        let outbox = tenant.iter().fold(Outbox::new(), |outbox, tenant| outbox.header("tenant", *tenant));
        outbox.emit(&log.pool, &Counted { key: keys[0].clone(), n }).await.unwrap();
    }
    let consumer = Consumer::builder(&log.pool, "g")
        .state(calls)
        .middleware(ByTenant)
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_, &'static Calls>| {
            cx.state().note(events.len());
            let numbers: Vec<_> = events.iter().map(|delivery| delivery.event.n).collect();
            sqlx::query("insert into owned (n) select * from unnest($1::bigint[])")
                .bind(numbers)
                .execute(&mut *cx)
                .await?;
            write(&events, cx).await
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 7).await;
    running.stop().await.unwrap();
    assert_eq!(calls.lengths(), [2, 1, 1, 1, 2]);
    let owned: Vec<String> =
        sqlx::query_scalar("select tenant from owned order by n").fetch_all(&log.pool).await.unwrap();
    assert_eq!(owned, tenants.map(Option::unwrap_or_default));
    log.close().await;
}

#[tokio::test]
async fn a_topic_has_one_batch_handler_and_no_other() {
    let log = TestLog::new().await;
    async fn batch(_: Vec<Delivery<Counted>>, _: &mut Context<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    async fn single(_: Counted, _: &mut Context<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    for refused in [
        Consumer::builder(&log.pool, "g").on_batch(batch).on(single).build(),
        Consumer::builder(&log.pool, "g").on(single).on_batch(batch).build(),
        Consumer::builder(&log.pool, "g").on_batch(batch).on_batch(batch).build(),
    ] {
        let Err(error @ BuildError::BatchHandlerShares { topic: "test.counted" }) = refused else { panic!() };
        assert!(error.to_string().contains("a group of its own"), "{error}");
    }
    log.close().await;
}

/// Whatever goes wrong, in whichever mode: every event's effect once, each key in order over both handlers.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_out_of_order_whatever_runs_answer() {
    #[derive(Default)]
    struct Whims(Mutex<HashMap<(String, i64), u32>>);

    impl Whims {
        /// Bad-tempered the first few times it sees an event.
        fn of(&self, key: &str, n: i64) -> Option<Failure> {
            let mut seen = self.0.lock().unwrap();
            let times = seen.entry((key.to_owned(), n)).or_default();
            *times += 1;
            if *times > 3 || fastrand::u8(..) > 8 {
                return None;
            }
            Some(match fastrand::u8(0..5) {
                0 => Failure::Unavailable("whim".into()),
                1 => Failure::Snooze(Duration::from_millis(2)),
                _ => Failure::Retry("whim".into()),
            })
        }
    }

    let seed =
        std::env::var("EVENT_BOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("EVENT_BOX_SEED={seed}");
    for (all_or_nothing, two_batch_handlers) in [(false, false), (true, false), (false, true)] {
        fastrand::seed(seed);
        let log = log().await;
        log.sql("create table counters (key text primary key, n bigint not null)").await;
        let mut keys = keys_of_one_partition(&log.pool, 12).await;
        keys.push("elsewhere".to_owned());
        let mut n: HashMap<&String, i64> = HashMap::new();
        let mut tx = log.pool.begin().await.unwrap();
        for _ in 0..1_500 {
            let key = &keys[fastrand::usize(..keys.len())];
            let n = n.entry(key).or_default();
            *n += 1;
            let key = key.clone();
            // Stretches of one kind, and single ones between.
            if *n / 10 % 2 == 0 && fastrand::u8(..) < 230 {
                log.outbox.emit(&mut *tx, &Counted { key, n: *n }).await.unwrap();
            } else {
                log.outbox.emit(&mut *tx, &Tallied { key, n: *n }).await.unwrap();
            }
        }
        for (key, n) in &n {
            sqlx::query("insert into counters values ($1, $2)").bind(key).bind(n).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        let whims: &'static Whims = Box::leak(Box::default());
        let builder = Consumer::builder(&log.pool, "g").state(whims).on_batch(
            async |events: Vec<Delivery<Counted>>,
                   cx: &mut Context<'_, &'static Whims>|
                   -> Result<Vec<Failed>, Failure> {
                let whim = |delivery: &Delivery<Counted>| cx.state().of(&delivery.event.key, delivery.event.n);
                let whims: Vec<_> = events.iter().map(whim).collect();
                if fastrand::bool() {
                    let (mut written, mut failed) = (Vec::new(), Vec::new());
                    for (delivery, whim) in events.into_iter().zip(whims) {
                        match whim {
                            Some(failure) => failed.push(delivery.failed(failure)),
                            None => written.push(delivery),
                        }
                    }
                    write(&written, cx).await?;
                    return Ok(failed);
                }
                write(&events, cx).await?;
                whims.into_iter().flatten().next().map_or(Ok(Vec::new()), Err)
            },
        );
        let builder = match two_batch_handlers {
            false => builder.on(async |event: Tallied, cx: &mut Context<'_, &'static Whims>| -> Result<(), Failure> {
                let whim = cx.state().of(&event.key, event.n);
                if whim.is_none() || fastrand::bool() {
                    tally(event, cx).await?;
                }
                whim.map_or(Ok(()), Err)
            }),
            true => builder.on_batch(
                async |events: Vec<Delivery<Tallied>>, cx: &mut Context<'_, &'static Whims>| -> Result<(), Failure> {
                    for delivery in &events {
                        if let Some(failure) = cx.state().of(&delivery.event.key, delivery.event.n) {
                            return Err(failure);
                        }
                    }
                    for delivery in events {
                        tally(delivery.event, cx).await?;
                    }
                    Ok(())
                },
            ),
        };
        let builder = builder.backoff(Backoff::fixed(Duration::from_millis(1))).max_attempts(1_000).workers(2);
        let consumer = if all_or_nothing { builder.all_or_nothing() } else { builder }.batch_size(300).build().unwrap();
        let running = Running::start(consumer);
        wait_until_seen(&log.pool, "g", 1_500).await;
        running.stop().await.unwrap();
        assert_each_once_in_order(&log.pool, "g").await;
        assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
        log.close().await;
    }
}

#[tokio::test]
async fn middleware_that_panics_over_what_may_be_together_ends_the_run_and_not_the_consumer() {
    struct Panics;

    impl<S: Sync + 'static> Middleware<S> for Panics {
        async fn deliver(&self, cx: &mut Context<'_, S>, next: Next<'_, S>) -> Result<(), Failure> {
            next.run(cx).await
        }

        fn together(&self, _: &EventInfo<'_>, next: &EventInfo<'_>) -> bool {
            panic!("over {}", next.sequence())
        }
    }

    let log = log().await;
    let keys = keys_of_one_partition(&log.pool, 2).await;
    emit(&log, &keys, 1..=2).await;
    let calls: &'static Calls = Box::leak(Box::default());
    let consumer = Consumer::builder(&log.pool, "g")
        .state(calls)
        .middleware(Panics)
        .on_batch(async |events: Vec<Delivery<Counted>>, cx: &mut Context<'_, &'static Calls>| {
            cx.state().note(events.len());
            write(&events, cx).await
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    wait_until_seen(&log.pool, "g", 4).await;
    running.stop().await.unwrap();
    assert_eq!(calls.lengths(), [1, 1, 1, 1]);
    log.close().await;
}
