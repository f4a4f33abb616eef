use std::time::Duration;

use event_box::{Backoff, Consumer, Context, Failure, Outbox, PullBuilder};
use event_box_tests::{Counted, Running, Seen, full, seen_by, wait_until_seen};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::own::Own;

const EVENTS: i64 = 200;

/// Every event fails once, and is parked until it goes through.
async fn note(event: Counted, cx: &mut Context<'_>) -> Result<(), Failure> {
    if cx.attempt() == 1 {
        return Err("at first".into());
    }
    Ok(Seen::note("m", &event, cx).await?)
}

/// Advances as a busy group makes them, each in a transaction of its own.
const ADVANCE: &str = "
    create procedure advance(times bigint) language plpgsql as $$ begin
        for i in 1..times loop
            update event_box.cursors set position = position, snapshot = pg_current_snapshot(),
                floors = array_fill(floor, array[(select count(*) from pg_snapshot_xip(pg_current_snapshot()))::int]),
                floor = floor, mark = mark, mark_xid = mark_xid, target = null, reached = 0, careful = 0, advanced_at = clock_timestamp()
            where group_name = 'busy' and partition = i % 64;
            commit;
        end loop;
    end $$";

/// Pages that a statement touches; prints how long it takes as well.
async fn touched(own: &Own, statement: &str) -> i64 {
    let explain = AssertSqlSafe(format!("explain (analyze, buffers, timing off, costs off) {statement}"));
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&own.pool).await.unwrap();
    let buffers = plan.iter().find(|line| line.contains("Buffers: shared")).expect("its buffers");
    let number = |name| {
        let at = buffers.split(name).nth(1).and_then(|rest| rest.split(' ').next());
        at.map_or(0, |number| number.parse::<i64>().unwrap())
    };
    let pages = number("hit=") + number("read=");
    println!("  {pages} pages, {}: {statement}", plan.last().unwrap());
    pages
}

/// The size of the tables and indexes that deliveries write, and the pages of a claim.
async fn measure(own: &Own, when: &str) -> (i64, i64) {
    println!("{when}:");
    let mut size = 0;
    for table in ["cursors", "parked"] {
        let bytes = own.number(&format!("select pg_relation_size('event_box.{table}')")).await;
        let indexes = own.number(&format!("select pg_indexes_size('event_box.{table}')")).await;
        let dead = format!("select dead_tuple_count from pgstattuple('event_box.{table}')");
        // Where the server has the extension.
        let dead = sqlx::query_scalar::<_, i64>(AssertSqlSafe(dead)).fetch_one(&own.pool).await;
        println!("  {table}: {bytes} bytes, indexes {indexes}, dead rows {dead:?}");
        size += bytes + indexes;
    }
    let claim = "select * from event_box.cursors where group_name = 'busy' and partition = 7 for update skip locked";
    let scan = "select count(*) from event_box.cursors where group_name = 'busy'";
    // A first visit of an index entry may mark it as dead; the second counts.
    touched(own, claim).await;
    let pages = touched(own, claim).await;
    touched(own, scan).await;
    (size, pages)
}

/// Every key's events, each once and in order.
async fn deliver(own: &Own, from: i64) {
    for n in from..from + EVENTS / 10 {
        for key in 0..10 {
            Outbox::new().emit(&own.pool, &Counted { key: format!("k{key}"), n }).await.unwrap();
        }
    }
    wait_until_seen(&own.pool, "g", (from - 1) * 10 + EVENTS).await;
}

/// It keeps what others have overwritten, and delays none of them; what it kept goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_delays_nothing_and_keeps_dead_rows() {
    let own = Own::new(0).await;
    sqlx::raw_sql(ADVANCE).execute(&own.pool).await.unwrap();
    let _ = sqlx::raw_sql("create extension pgstattuple").execute(&own.pool).await;
    PullBuilder::new(&own.pool, "busy").event::<Counted>().open().await.unwrap();
    let consumer = Consumer::builder(&own.pool, "g").on(note).backoff(Backoff::fixed(Duration::ZERO));
    let running = Running::start(consumer.build().unwrap());
    let (before, pages_before) = measure(&own, "before").await;

    let mut connection = PgConnection::connect(own.url()).await.unwrap();
    let mut open = connection.begin_with("begin isolation level repeatable read").await.unwrap();
    Outbox::new().emit(&mut *open, &Counted { key: "late".to_owned(), n: 1 }).await.unwrap();
    deliver(&own, 1).await;
    let advances = if full() { 300_000 } else { 30_000 };
    let call = AssertSqlSafe(format!("call advance({advances})"));
    sqlx::raw_sql(call).execute(&mut PgConnection::connect(own.url()).await.unwrap()).await.unwrap();
    deliver(&own, 1 + EVENTS / 10).await;
    let (during, pages_during) = measure(&own, &format!("after {advances} advances beside it")).await;
    let each = (during - before) / advances;
    assert!(each < 400, "{each} bytes an advance");
    assert!(pages_during > pages_before, "it keeps them");

    open.commit().await.unwrap();
    wait_until_seen(&own.pool, "g", 2 * EVENTS + 1).await;
    running.stop().await.unwrap();
    sqlx::raw_sql("vacuum event_box.cursors, event_box.parked").execute(&own.pool).await.unwrap();
    let (_, pages) = measure(&own, "vacuumed after its end").await;
    assert!(pages <= pages_before + 8, "a claim still touches {pages} pages");
    let seen = seen_by(&own.pool, "g").await;
    assert_eq!(seen.len(), 11);
    for (key, numbers) in seen {
        let last = if key == "late" { 1 } else { EVENTS / 5 };
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{key}");
    }
    own.close().await;
}
