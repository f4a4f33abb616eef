use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use event_box::{BoxError, Consumer, Context, EventBox, Handle};
use event_box_tests::{Counted, Noted, PATIENCE, Running, TestLog};
use tokio::sync::mpsc;

fn counted(key: &str, n: i64) -> Counted {
    Counted { key: key.to_owned(), n }
}

/// The next thing a handler reports.
async fn next<T>(reports: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, reports.recv()).await.expect("a handler reports in time").expect("a handler lives")
}

type Reports<T> = mpsc::UnboundedSender<T>;

async fn report_number(event: Counted, cx: &mut Context<'_, Reports<i64>>) -> Result<(), BoxError> {
    Ok(cx.state().send(event.n)?)
}

#[tokio::test]
async fn every_group_gets_every_event_of_its_topics() {
    let log = TestLog::new().await;
    let handle = EventBox::new(log.pool.clone());
    let (report, mut reports) = mpsc::unbounded_channel();
    let before: Vec<_> = (1..=100).map(|n| counted("k", n)).collect();
    log.outbox.emit_all(&log.pool, &before).await.unwrap();
    let group = |name: &'static str| {
        let consumer = Consumer::builder(&handle, name).state(report.clone()).on(
            async |event: Counted, cx: &mut Context<'_, Reports<(String, i64)>>| -> Result<(), BoxError> {
                Ok(cx.state().send((cx.group().to_owned(), event.n))?)
            },
        );
        Running::start(consumer.build().unwrap())
    };
    let (first, second) = (group("first"), group("second"));
    log.outbox.emit(&log.pool, &Noted { text: "nobody reads this".to_owned() }).await.unwrap();
    for n in 101..=150 {
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let (mut by_first, mut by_second) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let (group, n) = next(&mut reports).await;
        if group == "first" { by_first.push(n) } else { by_second.push(n) }
    }
    assert_eq!(by_first, (1..=150).collect::<Vec<_>>());
    assert_eq!(by_second, by_first);
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert!(reports.try_recv().is_err());
    log.close().await;
}

#[tokio::test]
async fn a_group_from_now_begins_with_what_comes() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    let (report, mut reports) = mpsc::unbounded_channel();
    let build =
        || Consumer::builder(&log.pool, "late").state(report.clone()).on(report_number).from_now().build().unwrap();
    let running = Running::start(build());
    // The group stands once it is there.
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    log.outbox.emit(&log.pool, &counted("k", 2)).await.unwrap();
    assert_eq!(next(&mut reports).await, 2);
    running.stop().await.unwrap();
    log.outbox.emit(&log.pool, &counted("k", 3)).await.unwrap();
    let running = Running::start(build());
    assert_eq!(next(&mut reports).await, 3, "a group that exists goes on where it stands");
    running.stop().await.unwrap();
    log.close().await;
}

struct Tally {
    steps: Arc<AtomicUsize>,
}

impl Handle<Reports<&'static str>> for Tally {
    type Event = Counted;
    type Error = BoxError;

    async fn handle(&self, _: Counted, cx: &mut Context<'_, Reports<&'static str>>) -> Result<(), BoxError> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        sqlx::query("insert into steps values ('struct', pg_current_xact_id()::text)").execute(&mut *cx).await?;
        Ok(cx.state().send("struct")?)
    }
}

async fn function(_: Counted, cx: &mut Context<'_, Reports<&'static str>>) -> Result<(), BoxError> {
    sqlx::query("insert into steps values ('function', pg_current_xact_id()::text)").execute(&mut *cx).await?;
    Ok(cx.state().send("function")?)
}

#[tokio::test]
async fn several_handlers_of_one_event_share_its_transaction() {
    let log = TestLog::new().await;
    log.sql("create table steps (name text, xid text)").await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let steps = Arc::new(AtomicUsize::new(0));
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(function)
        .handle(Tally { steps: steps.clone() })
        .on(async |_: Counted, cx: &mut Context<'_, Reports<&'static str>>| -> Result<(), BoxError> {
            sqlx::query("insert into steps values ('closure', pg_current_xact_id()::text)").execute(&mut *cx).await?;
            Ok(cx.state().send("closure")?)
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    assert_eq!(
        [next(&mut reports).await, next(&mut reports).await, next(&mut reports).await],
        ["function", "struct", "closure"]
    );
    running.stop().await.unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    assert_eq!(log.number("select count(*) from steps").await, 3);
    assert_eq!(log.number("select count(distinct xid) from steps").await, 1);
    log.close().await;
}

#[tokio::test]
async fn a_context_tells_all_of_its_event() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Counted, cx: &mut Context<'_, Reports<String>>| -> Result<(), BoxError> {
            let headers: Vec<_> = cx.headers().iter().map(|(name, value)| format!("{name}={value}")).collect();
            let age = SystemTime::now().duration_since(cx.emitted_at()).unwrap_or_default();
            assert!(age < Duration::from_secs(60), "{age:?}");
            Ok(cx.state().send(format!(
                "{} {} v{} {:?} {} {} attempt {} of {} seq {}",
                cx.id(),
                cx.topic(),
                cx.version(),
                cx.partition_key(),
                headers.join(","),
                event.n,
                cx.attempt(),
                cx.group(),
                cx.sequence(),
            ))?)
        })
        .build()
        .unwrap();
    let id = log.outbox.emit(&log.pool, &counted("k", 7)).header("tenant", "acme").header("b", "ü").await.unwrap();
    let running = Running::start(consumer);
    let told = next(&mut reports).await;
    assert_eq!(told, format!("{id} test.counted v1 Some(\"k\") b=ü,tenant=acme 7 attempt 1 of g seq 1"));
    running.stop().await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn what_a_handler_emits_is_delivered_once_after_its_commit() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state((log.outbox.clone(), report))
        .on(async |event: Counted, cx: &mut Context<'_, (event_box::Outbox, Reports<i64>)>| -> Result<(), BoxError> {
            let (outbox, report) = cx.state();
            if event.n < 20 {
                outbox.emit(&mut *cx, &counted(&event.key, event.n + 1)).await?;
            }
            Ok(report.send(event.n)?)
        })
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.outbox.emit(&log.pool, &counted("k", 1)).await.unwrap();
    for n in 1..=20 {
        assert_eq!(next(&mut reports).await, n);
    }
    running.stop().await.unwrap();
    assert!(reports.try_recv().is_err());
    assert_eq!(log.number("select count(*) from event_box.events").await, 20);
    log.close().await;
}

/// The connection dies between the handler's write and the commit: neither stays, and the event comes again.
#[tokio::test]
async fn a_handlers_sql_and_its_cursor_commit_or_roll_back_together() {
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint not null)").await;
    let deaths = Arc::new(AtomicUsize::new(0));
    let (report, mut reports) = mpsc::unbounded_channel();
    let state = (log.pool.clone(), deaths.clone(), report);
    let consumer = Consumer::builder(&log.pool, "g")
        .state(state)
        .on(
            async |event: Counted,
                   cx: &mut Context<'_, (sqlx::PgPool, Arc<AtomicUsize>, Reports<i64>)>|
                   -> Result<(), BoxError> {
                let (pool, deaths, report) = cx.state();
                sqlx::query("insert into effects values ($1)").bind(event.n).execute(&mut *cx).await?;
                if event.n == 3 && deaths.fetch_add(1, Ordering::Relaxed) < 2 {
                    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *cx).await?;
                    sqlx::query("select pg_terminate_backend($1)").bind(backend).execute(pool).await?;
                }
                Ok(report.send(event.n)?)
            },
        )
        .build()
        .unwrap();
    let events: Vec<_> = (1..=5).map(|n| counted("k", n)).collect();
    log.outbox.emit_all(&log.pool, &events).await.unwrap();
    let running = Running::start(consumer);
    while next(&mut reports).await != 5 {}
    running.stop().await.unwrap();
    assert!(deaths.load(Ordering::Relaxed) >= 2);
    let effects: Vec<i64> = sqlx::query_scalar("select n from effects order by n").fetch_all(&log.pool).await.unwrap();
    assert_eq!(effects, [1, 2, 3, 4, 5]);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0, "the event is not to blame");
    log.close().await;
}

/// Woken by the notification: the poll alone would take a minute.
#[tokio::test]
async fn a_commit_wakes_its_handler() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(report_number)
        .on(async |event: Noted, cx: &mut Context<'_, Reports<i64>>| -> Result<(), BoxError> {
            Ok(cx.state().send(event.text.parse()?)?)
        })
        .poll_interval(Duration::from_secs(600))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    for n in 1..=10 {
        // Long enough apart for the process's tokens.
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
        assert_eq!(next(&mut reports).await, n);
        log.outbox.emit(&log.pool, &Noted { text: n.to_string() }).await.unwrap();
        assert_eq!(next(&mut reports).await, n, "an event without a key");
    }
    running.stop().await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn what_nobody_announces_is_found_by_the_poll() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g").state(report).on(report_number).build().unwrap();
    let running = Running::start(consumer);
    let quiet = log.outbox.clone().notify(false);
    for n in 1..=5 {
        quiet.emit(&log.pool, &counted("k", n)).await.unwrap();
        assert_eq!(next(&mut reports).await, n);
    }
    running.stop().await.unwrap();
    log.close().await;
}

/// Foreign topics fill the log; the group passes over them, and what it reads still comes.
#[tokio::test]
async fn topics_that_the_group_does_not_read_are_passed_over() {
    let log = TestLog::new().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let noise: Vec<_> = (0..20_000).map(|n| Noted { text: n.to_string() }).collect();
    for n in 1..=3 {
        log.outbox.emit_all(&log.pool, &noise).await.unwrap();
        log.outbox.emit(&log.pool, &counted("k", n)).await.unwrap();
    }
    let consumer = Consumer::builder(&log.pool, "g").state(report).on(report_number).batch_size(100).build().unwrap();
    let running = Running::start(consumer);
    for n in 1..=3 {
        assert_eq!(next(&mut reports).await, n);
    }
    running.stop().await.unwrap();
    log.close().await;
}

/// 64 MB of events through a budget of 1 MB, the first of each batch larger than that.
#[tokio::test]
async fn a_byte_budget_cuts_batches_and_loses_nothing() {
    let log = TestLog::new().await;
    let outbox = log.outbox.clone().max_payload_bytes(8 << 20);
    let mut connection = log.pool.acquire().await.unwrap();
    for n in 0..40 {
        let size = if n % 10 == 0 { 2 << 20 } else { 300 << 10 };
        let event = Noted { text: format!("{n} {}", "x".repeat(size)) };
        outbox.emit(&mut *connection, &event).partition_key("one").await.unwrap();
    }
    drop(connection);
    let (report, mut reports) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&log.pool, "g")
        .state(report)
        .on(async |event: Noted, cx: &mut Context<'_, Reports<i64>>| -> Result<(), BoxError> {
            Ok(cx.state().send(event.text.split(' ').next().unwrap_or_default().parse()?)?)
        })
        .batch_bytes(1 << 20)
        .build()
        .unwrap();
    let running = Running::start(consumer);
    for n in 0..40 {
        assert_eq!(next(&mut reports).await, n);
    }
    running.stop().await.unwrap();
    log.close().await;
}
