use std::sync::Mutex;

use event_box::{BoxError, Consumer, Context, Failure, Middleware, Next, Outbox};
use event_box_tests::{Counted, Noted, Running, TestLog};

/// Row-level security by a variable that middleware sets: for every event, the empty value included.
struct AsTenant;

impl<S: Sync + 'static> Middleware<S> for AsTenant {
    async fn deliver(&self, cx: &mut Context<'_, S>, next: Next<'_, S>) -> Result<(), Failure> {
        let tenant = cx.headers().get("tenant").unwrap_or_default();
        sqlx::query("select set_config('app.tenant', $1, true)").bind(tenant).execute(&mut *cx).await?;
        next.run(cx).await
    }
}

/// In one batch tenants alternate, and between them stand events without one: what a setting leaves behind reaches no neighbour.
#[tokio::test]
async fn tenants_and_events_without_one_alternate_in_one_batch() {
    let log = TestLog::new().await;
    log.sql(
        "create role tenants_handler login;
         grant tenants_handler to current_user;
         create table owned (tenant text not null, n bigint not null, xid text not null default pg_current_xact_id()::text);
         alter table owned enable row level security;
         create policy own on owned to tenants_handler using (tenant = current_setting('app.tenant'))
             with check (tenant = current_setting('app.tenant'));
         grant select, insert on owned to tenants_handler;
         grant usage on schema event_box to tenants_handler;
         grant all on all tables in schema event_box to tenants_handler;
         grant all on all sequences in schema event_box to tenants_handler;",
    )
    .await;
    let tenants: Vec<_> = (0..60).map(|n| [Some("acme"), None, Some("zenith"), None, None][n % 5]).collect();
    let mut tx = log.pool.begin().await.unwrap();
    for (tenant, n) in tenants.iter().zip(1..) {
        let outbox = tenant.iter().fold(Outbox::new(), |outbox, tenant| outbox.header("tenant", *tenant));
        outbox.emit(&mut *tx, &Counted { key: "k".to_owned(), n }).await.unwrap();
    }
    tx.commit().await.unwrap();
    let options = log.pool.connect_options().as_ref().clone().username("tenants_handler");
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(10).connect_with(options).await.unwrap();
    let consumer = Consumer::builder(&pool, "g")
        .middleware(AsTenant)
        .on(async |event: Counted, cx: &mut Context<'_>| -> Result<(), BoxError> {
            let tenant = cx.headers().get("tenant").unwrap_or_default();
            // Sees its tenant's rows alone, and may write no other's.
            let foreign: i64 = sqlx::query_scalar("select count(*) from owned where tenant <> $1")
                .bind(tenant)
                .fetch_one(&mut *cx)
                .await?;
            assert_eq!(foreign, 0);
            let insert = "insert into owned (tenant, n) values ($1, $2)";
            sqlx::query(insert).bind(tenant).bind(event.n).execute(&mut *cx).await?;
            if event.n % 10 == 3 && cx.attempt() == 1 {
                let elsewhere = sqlx::query(insert).bind("elsewhere").bind(event.n).execute(&mut *cx).await;
                return Err(elsewhere.err().map_or_else(|| "another tenant's row was written".into(), Into::into));
            }
            Ok(())
        })
        .backoff(event_box::Backoff::fixed(std::time::Duration::from_millis(20)))
        .build()
        .unwrap();
    let running = Running::start(consumer);
    log.wait_until("select count(*) from owned", 60).await;
    running.stop().await.unwrap();
    pool.close().await;
    let owned: Vec<(String, i64)> =
        sqlx::query_as("select tenant, n from owned order by n").fetch_all(&log.pool).await.unwrap();
    let expected: Vec<_> = tenants.iter().map(|tenant| tenant.unwrap_or_default().to_owned()).zip(1..).collect();
    assert_eq!(owned, expected);
    let errors: Vec<String> =
        sqlx::query_scalar("select distinct error from event_box.parked").fetch_all(&log.pool).await.unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        log.number("select max(n)::bigint from (select count(*) as n from owned group by xid) as batches").await > 1
    );
    log.sql("drop owned by tenants_handler").await;
    log.close().await;
}

#[derive(Default)]
struct Trace(Mutex<Vec<String>>);

impl Trace {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Notes when it begins and how what is inside of it ended.
struct Layer(&'static str);

impl Middleware<&'static Trace> for Layer {
    async fn deliver(
        &self,
        cx: &mut Context<'_, &'static Trace>,
        next: Next<'_, &'static Trace>,
    ) -> Result<(), Failure> {
        let trace = cx.state();
        trace.note(format!("{} {}", self.0, cx.topic()));
        let ended = next.run(cx).await;
        trace.note(format!("{} {}", self.0, ended.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned())));
        ended
    }
}

/// Lets through what has a permit; passes over what is for nobody.
struct Authorised;

impl Middleware<&'static Trace> for Authorised {
    async fn deliver(
        &self,
        cx: &mut Context<'_, &'static Trace>,
        next: Next<'_, &'static Trace>,
    ) -> Result<(), Failure> {
        match cx.headers().get("permit") {
            Some("none") => Err(Failure::Reject("no permit".into())),
            Some("skip") => Ok(()),
            _ => next.run(cx).await,
        }
    }
}

async fn first(event: Noted, cx: &mut Context<'_, &'static Trace>) -> Result<(), BoxError> {
    cx.state().note(format!("first {}", event.text));
    if event.text == "panic" {
        panic!("at the disco");
    }
    Ok(())
}

async fn second(event: Noted, cx: &mut Context<'_, &'static Trace>) -> Result<(), BoxError> {
    cx.state().note(format!("second {}", event.text));
    Ok(())
}

#[tokio::test]
async fn the_first_is_outermost_and_all_handlers_of_an_event_are_inside() {
    let log = TestLog::new().await;
    let trace: &'static Trace = Box::leak(Box::default());
    let consumer = || {
        Consumer::builder(&log.pool, "g")
            .state(trace)
            .middleware(Layer("outer"))
            .middleware(Authorised)
            .on(first)
            .middleware(Layer("inner"))
            .on(second)
            .max_attempts(1)
            .build()
            .unwrap()
    };
    let tried = async |text: &str, permit: &str| {
        let noted = Noted { text: text.to_owned() };
        log.outbox.emit(&log.pool, &noted).header("permit", permit).await.unwrap();
        let drained = event_box::testing::drain(&consumer()).await.unwrap();
        (trace.taken(), drained)
    };
    let (trace_of, drained) = tried("fine", "any").await;
    let all = ["outer test.noted", "inner test.noted", "first fine", "second fine", "inner ok", "outer ok"];
    assert_eq!((trace_of.as_slice(), drained.handled), (&all.map(str::to_owned)[..], 1));

    let (trace_of, drained) = tried("skipped", "skip").await;
    assert_eq!((trace_of.as_slice(), drained.handled), (&["outer test.noted", "outer ok"].map(str::to_owned)[..], 1));

    let (trace_of, drained) = tried("refused", "none").await;
    assert_eq!(trace_of, ["outer test.noted", "outer no permit"]);
    assert_eq!((drained.handled, drained.dead_letters[0].error.as_str()), (0, "no permit"));

    // The panic of a handler is an error to those outside of it.
    let (trace_of, drained) = tried("panic", "any").await;
    let panicked = "the handler panicked: at the disco";
    let all = ["outer test.noted", "inner test.noted", "first panic", "inner PANICKED", "outer PANICKED"];
    assert_eq!(trace_of, all.map(|line| line.replace("PANICKED", panicked)));
    assert_eq!(drained.dead_letters[0].error, panicked);
    log.close().await;
}

/// What middleware wrote for an event goes with the event.
#[tokio::test]
async fn what_middleware_wrote_is_undone_where_the_event_fails() {
    struct Audited;

    impl Middleware for Audited {
        async fn deliver(&self, cx: &mut Context<'_>, next: Next<'_>) -> Result<(), Failure> {
            sqlx::query("insert into audit values ($1)").bind(cx.sequence()).execute(&mut *cx).await?;
            next.run(cx).await
        }
    }

    let log = TestLog::new().await;
    log.sql("create table audit (sequence bigint)").await;
    for n in 1..=4 {
        log.outbox.emit(&log.pool, &Counted { key: format!("k{n}"), n }).await.unwrap();
    }
    let consumer = Consumer::builder(&log.pool, "g")
        .middleware(Audited)
        .on(async |event: Counted, _: &mut Context<'_>| if event.n == 2 { Err(BoxError::from("two")) } else { Ok(()) })
        .max_attempts(1)
        .build()
        .unwrap();
    let drained = event_box::testing::drain(&consumer).await.unwrap();
    assert_eq!((drained.handled, drained.dead_letters.len()), (3, 1));
    assert_eq!(log.number("select count(*) from audit").await, 3);
    log.close().await;
}
