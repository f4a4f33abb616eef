//! The plans of our long queries on a log of a million rows: index ranges, whether the planner knows the parameters or not.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    EventBox,
    group::Start,
    test_log::{Counted, TestLog},
};

const READ: &str = include_str!("read.sql");
const LOOK: &str = include_str!("look.sql");
const HEALTH: &str = include_str!("health.sql");
const RETENTION: &str = include_str!("retention.sql");
const MOVER: &str = include_str!("mover.sql");

const MODES: [&str; 2] = ["force_generic_plan", "force_custom_plan"];

async fn million() -> TestLog {
    let log = TestLog::new().await;
    log.group("begins", Start::Beginning).await;
    let fill = "insert into event_box.events (id, topic, partition_key, payload)
                select gen_random_uuid(), $1, 'key' || i % 5000, json_build_object('key', i % 5000, 'n', i, 'note', repeat('x', 100))
                from generate_series($2::int, $3::int) as i";
    // The last tenth comes from one late transaction.
    for (from, to) in [(1, 900_000), (900_001, 1_000_000)] {
        sqlx::query(fill).bind(Counted::TOPIC).bind(from).bind(to).execute(&log.pool).await.unwrap();
    }
    sqlx::raw_sql("vacuum analyze event_box.events").execute(&log.pool).await.unwrap();
    quiet(&log, "now").await;
    // As where a transaction was open when the group began, and has ended since: late rows may lie anywhere.
    log.group("wide", Start::Now).await;
    let open = "update event_box.cursors set floors = array[0],
                    snapshot = (pg_snapshot_xmax(snapshot)::text || ':' || (pg_snapshot_xmax(snapshot)::text::bigint + 1) || ':' ||
                                pg_snapshot_xmax(snapshot)::text)::pg_snapshot
                where group_name = 'wide'";
    sqlx::raw_sql(open).execute(&log.pool).await.unwrap();
    sqlx::raw_sql("select pg_current_xact_id()").execute(&log.pool).await.unwrap();
    log
}

/// A group from now on whose bounds are tight. The server is shared: where a transaction of another test is open at that moment, late rows may
/// lie anywhere, as for the group `wide`.
async fn quiet(log: &TestLog, group: &'static str) {
    for _ in 0..1_000 {
        log.group(group, Start::Now).await;
        let open = "select exists (select from event_box.cursors where group_name = $1 and floors <> '{}')";
        if !sqlx::query_scalar::<_, bool>(open).bind(group).fetch_one(&log.pool).await.unwrap() {
            return;
        }
        EventBox::from(log).group(group).remove().await.unwrap();
        // What it leaves behind would count as pages of the next.
        sqlx::raw_sql("vacuum event_box.cursors, event_box.consumer_groups").execute(&log.pool).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the server is never quiet");
}

/// The plan of a prepared statement, executed.
async fn plan(connection: &mut PgConnection, mode: &str, types: &str, sql: &str, arguments: &str) -> String {
    prepare(connection, mode, types, sql).await;
    // The first run fills the caches.
    executed(connection, arguments).await;
    let text = executed(connection, arguments).await;
    println!("{mode} ({arguments})\n{text}\n");
    text
}

async fn prepare(connection: &mut PgConnection, mode: &str, types: &str, sql: &str) {
    let types = if types.is_empty() { String::new() } else { format!("({types})") };
    let prepare =
        format!("set plan_cache_mode = {mode}; set jit = off; deallocate all; prepare tried {types} as {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(connection).await.unwrap();
}

async fn executed(connection: &mut PgConnection, arguments: &str) -> String {
    let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
    let explain = AssertSqlSafe(format!("explain (analyze, buffers, costs off) execute tried {arguments}"));
    let lines: Vec<String> = sqlx::query_scalar(explain).persistent(false).fetch_all(connection).await.unwrap();
    lines.join("\n")
}

/// Every access to the log goes through its one index, by partition and sequence.
fn assert_index_ranges(plan: &str) {
    assert!(!plan.contains("Seq Scan on events"), "{plan}");
    let lines: Vec<_> = plan.lines().collect();
    let mut scans = 0;
    for (i, line) in lines.iter().enumerate() {
        let by_index =
            line.contains("using events_pkey on events") || line.contains("Bitmap Index Scan on events_pkey");
        if by_index && !line.contains("never executed") {
            scans += 1;
            let condition = lines[i + 1];
            assert!(
                condition.contains("Index Cond: ((partition = ") && condition.contains("sequence"),
                "{condition}\n{plan}"
            );
        }
    }
    assert!(scans > 0, "{plan}");
}

/// Pages touched by the whole statement.
fn pages(plan: &str) -> u64 {
    let line = plan.lines().find(|line| line.contains("Buffers: shared")).expect("buffers");
    // Not what this statement had to write for its neighbours.
    line.split(' ')
        .filter_map(|part| part.strip_prefix("hit=").or(part.strip_prefix("read="))?.parse::<u64>().ok())
        .sum()
}

fn milliseconds(plan: &str) -> f64 {
    let line = plan.lines().find(|line| line.starts_with("Execution Time")).expect("a time");
    line.split(' ').find_map(|number| number.parse().ok()).expect("milliseconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_long_query_is_an_index_range_on_a_million_rows() {
    let log = million().await;
    let mut connection = log.pool.acquire().await.unwrap();
    let (late_xid, next_xid): (String, String) = sqlx::query_as(
        "select max(xid::text::bigint)::text, pg_current_xact_id()::text from event_box.events where partition = 3",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let types = "text, smallint[], bigint, text[], bigint[], text[], text[], bigint[], text[], bigint[]";
    let topics = "'{counted}'";
    let all = format!("'{next_xid}:{next_xid}:'");
    let before_late = format!("'{late_xid}:{next_xid}:{late_xid}'");
    for mode in MODES {
        let read = async |connection: &mut PgConnection, position: i64, snapshot: &str, floors: &str, floor: i64| {
            let arguments = format!(
                "'now', '{{3}}', 1001, '{{off,{mode},off,off}}', '{{{position}}}', array[{snapshot}], array['{floors}'], '{{{floor}}}', '{{null}}', '{{0}}'"
            );
            let plan = plan(connection, mode, types, READ, &arguments).await;
            assert_index_ranges(&plan);
            let sorts_the_log = plan.lines().any(|line| line.contains("Sort Key: events"));
            assert!(!sorts_the_log, "{plan}");
            plan
        };
        // As a claim sets it.
        sqlx::raw_sql("set enable_bitmapscan = off; set enable_seqscan = off").execute(&mut *connection).await.unwrap();
        let caught_up = read(&mut connection, 1_000_000, &all, "{}", 1_000_000).await;
        let fresh = read(&mut connection, 500_000, &all, "{}", 500_000).await;
        let late = read(&mut connection, 1_000_000, &before_late, "{900000}", 1_000_000).await;
        for (what, plan, rows, most) in
            [("caught up", caught_up, 0, 30), ("fresh", fresh, 1001, 1200), ("late", late, 1001, 1200)]
        {
            println!("{mode}: read, {what}: {} ms, {} pages", milliseconds(&plan), pages(&plan));
            assert!(plan.contains(&format!("rows={}", rows + 1)), "{what}\n{plan}");
            assert!(pages(&plan) < most, "{what}: {} pages\n{plan}", pages(&plan));
        }

        // What is parked is asked for once, by index.
        let nothing_parked = read(&mut connection, 500_000, &all, "{}", 500_000).await;
        let parked: Vec<_> = nothing_parked.lines().filter(|line| line.contains(" on parked")).collect();
        assert!(matches!(parked[..], [line] if line.contains("Index Only Scan using parked_key")), "{parked:#?}");

        // As a look sets it.
        sqlx::raw_sql("reset enable_seqscan").execute(&mut *connection).await.unwrap();
        for group in ["now", "begins", "wide"] {
            let plan = plan(&mut connection, mode, "text, text[]", LOOK, &format!("'{group}', {topics}")).await;
            assert!(!plan.contains("Seq Scan on events"), "{plan}");
            println!("{mode}: look, group {group}: {} ms, {} pages", milliseconds(&plan), pages(&plan));
            // A hundred rows a partition, where a transaction that was open when the group began has ended since.
            assert!(pages(&plan) < 64 * 130, "{} pages\n{plan}", pages(&plan));
        }

        for (group, most) in [("now", 64 * 30), ("begins", 64 * 10_100)] {
            let plan = plan(&mut connection, mode, "text", HEALTH, &format!("'{group}'")).await;
            assert_index_ranges(&plan);
            println!("{mode}: health, group {group}: {} ms, {} pages", milliseconds(&plan), pages(&plan));
            assert!(pages(&plan) < most, "{} pages\n{plan}", pages(&plan));
        }
        sqlx::raw_sql("reset enable_bitmapscan").execute(&mut *connection).await.unwrap();

        // Everything is old: held back by a group that has been given nothing, then a thousand rows that everybody has.
        let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
        let types = "smallint, bigint, bigint, float8";
        let held_back = plan(&mut tx, mode, types, RETENTION, "3::smallint, 0, 1000, 0").await;
        assert!(pages(&held_back) < 30, "{held_back}");
        sqlx::raw_sql("delete from event_box.consumer_groups where name = 'begins'").execute(&mut *tx).await.unwrap();
        let prune = plan(&mut tx, mode, types, RETENTION, "3::smallint, 0, 1000, 0").await;
        assert_index_ranges(&prune);
        assert!(prune.contains("Delete on events e (actual") && prune.contains("rows=1000"), "{prune}");
        tx.rollback().await.unwrap();
        println!("{mode}: prune, one chunk: {} ms, {} pages", milliseconds(&prune), pages(&prune));
    }
    // Events that wait for a process with a handler are not walked over by those without one.
    let park = "insert into event_box.parked (group_name, partition, sequence, topic, reason)
                select 'now', i & 63, i, 'unknown', 'no_handler' from generate_series(1, 200000) as i";
    sqlx::query(park).execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("analyze event_box.parked").execute(&mut *connection).await.unwrap();
    for mode in MODES {
        sqlx::raw_sql("set enable_bitmapscan = off").execute(&mut *connection).await.unwrap();
        let look = plan(&mut connection, mode, "text, text[]", LOOK, &format!("'now', {topics}")).await;
        println!("{mode}: look, 200,000 without a handler: {} ms, {} pages", milliseconds(&look), pages(&look));
        assert!(pages(&look) < 64 * 130, "{look}");
    }
    drop(connection);
    log.close().await;
}

/// However many wait: what is due is an index range, and so are the check, a cancel, and the way of each event into the log.
#[tokio::test(flavor = "multi_thread")]
async fn ten_due_of_a_million_that_wait_are_an_index_range() {
    let log = TestLog::new().await;
    let mut connection = log.pool.acquire().await.unwrap();
    let fill = "insert into event_box.delayed (due_at, id, topic, partition_key, payload)
                select now() + i * interval '1 minute', gen_random_uuid(), 'counted', 'key' || i % 5000,
                       json_build_object('key', i % 5000, 'n', i, 'note', repeat('x', 100))
                from generate_series($1::int, 1000000) as i";
    // As ids come: in no order of the due times.
    sqlx::query(fill).bind(1).execute(&mut *connection).await.unwrap();
    let check = "select extract(epoch from min(due_at) - statement_timestamp())::float8 as wait from event_box.delayed";
    for statistics in ["without statistics", "with statistics"] {
        if statistics == "with statistics" {
            sqlx::raw_sql("vacuum analyze event_box.delayed").execute(&mut *connection).await.unwrap();
        }
        for mode in MODES {
            let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
            let fall_due = "update event_box.delayed set due_at = due_at - interval '1 year'
                            where due_at in (select due_at from event_box.delayed order by due_at limit 10)";
            sqlx::raw_sql(fall_due).execute(&mut *tx).await.unwrap();
            let check = plan(&mut tx, mode, "", check, "").await;
            let cancel = "delete from event_box.delayed where id = $1";
            let cancel = plan(&mut tx, mode, "uuid", cancel, "gen_random_uuid()").await;
            prepare(&mut tx, mode, "bigint, bigint, timestamptz, text, text", MOVER).await;
            let ten = executed(&mut tx, "1000, 8388608, null, 'channel', ''").await;
            let none = executed(&mut tx, "1000, 8388608, null, 'channel', ''").await;
            tx.rollback().await.unwrap();
            println!("{mode}, {statistics}, ten due\n{ten}\n");
            let locked = ten.lines().find(|line| line.contains("LockRows (actual")).expect(&ten);
            // PostgreSQL 18 counts rows to two decimals.
            assert!(locked.contains("rows=10 ") || locked.contains("rows=10.00 "), "{ten}");
            let condition = "Index Cond: (due_at <= ";
            assert!(ten.contains("using delayed_pkey on delayed") && ten.contains(condition), "{ten}");
            assert!(cancel.contains("delayed_id"), "{cancel}");
            for (what, plan, most) in
                [("check", check, 10), ("cancel", cancel, 10), ("none due", none, 30), ("ten due", ten, 300)]
            {
                println!("{mode}, {statistics}: {what}: {} ms, {} pages", milliseconds(&plan), pages(&plan));
                assert!(!plan.contains("Seq Scan on delayed"), "{what}\n{plan}");
                assert!(pages(&plan) < most, "{what}: {} pages\n{plan}", pages(&plan));
            }
        }
    }
    drop(connection);
    log.close().await;
}
