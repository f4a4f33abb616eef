use event_box_tests::{TestLog, client};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// Id, topic, version, key, payload, headers.
type Row = (Uuid, String, i16, Option<String>, String, Option<String>);

const ORDERS: &str = "create table orders (id bigint primary key, cents bigint not null)";

/// The trigger of docs/sql.md as it stands there.
fn documented_trigger() -> &'static str {
    let (_, trigger) = include_str!("../../docs/sql.md").split_once("```sql\n").unwrap();
    trigger.split_once("```").unwrap().0
}

#[tokio::test]
async fn psql_and_a_trigger_emit() {
    let log = TestLog::new().await;
    log.sql(ORDERS).await;
    log.sql(documented_trigger()).await;
    let psql = client("psql")
        .args(["-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-d", log.url()])
        .args(["-c", r#"select event_box.emit('greeted', '{"who":  "world"}', 'k', '{"tenant":"acme"}', 3::smallint)"#])
        .args(["-c", "insert into orders values (7, 995)"])
        .args(["-c", "begin", "-c", "insert into orders values (8, 1)", "-c", "rollback"])
        .output()
        .expect("psql runs");
    assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    let id: Uuid = String::from_utf8(psql.stdout).unwrap().trim().parse().unwrap();
    assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
    let rows: Vec<Row> = sqlx::query_as(
        "select id, topic, version, partition_key, payload::text, headers::text from event_box.events order by sequence",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    let text = |text: &str| Some(text.to_owned());
    let greeted =
        (id, "greeted".to_owned(), 3, text("k"), r#"{"who":  "world"}"#.to_owned(), text(r#"{"tenant":"acme"}"#));
    assert_eq!(rows[0], greeted);
    let (_, topic, version, key, payload, headers) = rows[1].clone();
    assert_eq!((topic.as_str(), version, key, headers), ("orders.placed", 1, text("7"), None));
    assert_eq!(payload, r#"{"id":7,"cents":995}"#);
    log.close().await;
}

#[tokio::test]
async fn it_keeps_the_id_it_is_given_and_makes_ascending_ones() {
    let log = TestLog::new().await;
    let given = Uuid::now_v7();
    let kept: Uuid = sqlx::query_scalar("select event_box.emit('t', '{}', id => $1)")
        .bind(given)
        .fetch_one(&log.pool)
        .await
        .unwrap();
    assert_eq!(kept, given);
    let before = Uuid::now_v7();
    let made: Vec<Uuid> = sqlx::query_scalar("select event_box.emit('t', '{}') from generate_series(1, 100)")
        .fetch_all(&log.pool)
        .await
        .unwrap();
    let milliseconds = |id: Uuid| id.get_timestamp().unwrap().to_unix().0 * 1000;
    assert!(
        made.iter().all(|id| id.get_version_num() == 7 && milliseconds(*id).abs_diff(milliseconds(before)) <= 60_000)
    );
    assert_eq!(made.iter().collect::<std::collections::HashSet<_>>().len(), 100);
    let mut ascending = made.iter().map(|id| milliseconds(*id)).collect::<Vec<_>>();
    ascending.sort_unstable();
    assert_eq!(ascending, made.iter().map(|id| milliseconds(*id)).collect::<Vec<_>>());
    log.close().await;
}

/// Changes an order to 2, then, while that is open, from elsewhere to 4, then to 3; answers what the log says of it, in its order.
async fn announced(log: &TestLog, change: fn(i32) -> String) -> Vec<(String, i64)> {
    let mut tx = log.pool.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(change(2))).execute(&mut *tx).await.unwrap();
    let (pool, later) = (log.pool.clone(), change(4));
    let waiting = tokio::spawn(async move { sqlx::raw_sql(AssertSqlSafe(later)).execute(&pool).await });
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    log.wait_until(waits, 1).await;
    sqlx::raw_sql(AssertSqlSafe(change(3))).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(log.number("select cents from orders").await, 4);
    sqlx::query_as("select topic, (payload ->> 'cents')::bigint from event_box.events order by sequence")
        .fetch_all(&log.pool)
        .await
        .unwrap()
}

fn upsert(cents: i32) -> String {
    format!("insert into orders values (7, {cents}) on conflict (id) do update set cents = excluded.cents")
}

fn update(cents: i32) -> String {
    format!("update orders set cents = {cents} where id = 7")
}

/// What docs/sql.md says of AFTER and BEFORE.
#[tokio::test]
async fn an_after_trigger_announces_changes_in_the_order_they_were_made() {
    let (placed, changed) = (|cents| ("orders.placed".to_owned(), cents), |cents| ("orders.changed".to_owned(), cents));
    let log = TestLog::new().await;
    log.sql(ORDERS).await;
    log.sql(documented_trigger()).await;
    assert_eq!(announced(&log, upsert).await, [placed(2), changed(3), changed(4)]);
    log.sql("truncate event_box.events").await;
    assert_eq!(announced(&log, update).await, [changed(2), changed(3), changed(4)]);

    log.sql("truncate event_box.events; truncate orders; drop trigger announce_order on orders").await;
    let before = documented_trigger().replace("return null", "return new").replace(" after insert", " before insert");
    let before = before.replace("create function", "create or replace function");
    sqlx::raw_sql(AssertSqlSafe(before)).execute(&log.pool).await.unwrap();
    let said = announced(&log, upsert).await;
    let fourth = said.iter().position(|event| *event == placed(4)).expect("an insert that never was");
    let third = said.iter().position(|event| *event == changed(3)).unwrap();
    assert!(fourth < third, "a BEFORE trigger would do as well: {said:?}");
    log.close().await;
}

#[tokio::test]
async fn an_event_can_be_emitted_with_a_due_time() {
    let log = TestLog::new().await;
    let given = Uuid::now_v7();
    let kept: Uuid = sqlx::query_scalar(
        r#"select event_box.emit_at('2100-01-01 00:00+00', 'greeted', '{"who":  "world"}', 'k', '{"tenant":"acme"}', 3::smallint, $1)"#,
    )
    .bind(given)
    .fetch_one(&log.pool)
    .await
    .unwrap();
    let made: Uuid = sqlx::query_scalar("select event_box.emit_at(now() + interval '3 days', 't', '{}')")
        .fetch_one(&log.pool)
        .await
        .unwrap();
    assert_eq!((kept, made.get_version_num(), made.get_variant()), (given, 7, uuid::Variant::RFC4122));
    let row: Row = sqlx::query_as(
        "select id, topic, version, partition_key, payload::text, headers::text from event_box.delayed where due_at = '2100-01-01 00:00+00'",
    )
    .fetch_one(&log.pool)
    .await
    .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let greeted =
        (given, "greeted".to_owned(), 3, text("k"), r#"{"who":  "world"}"#.to_owned(), text(r#"{"tenant":"acme"}"#));
    assert_eq!(row, greeted);
    let in_three_days = "select count(*) from event_box.delayed where due_at - emitted_at - interval '3 days' between '-1 minute' and '0'";
    assert_eq!((log.number(in_three_days).await, log.number("select count(*) from event_box.events").await), (1, 0));
    // As docs/sql.md says.
    let cancelled = sqlx::query("delete from event_box.delayed where id = $1").bind(given).execute(&log.pool).await;
    assert_eq!(cancelled.unwrap().rows_affected(), 1);
    for (arguments, constraint) in [
        ("now(), '', '{}'", "topic_length"),
        ("now(), 't', '{}', ''", "partition_key_length"),
        ("now(), 't', '{}', null, '[]'", "headers_object"),
        ("now(), 't', '{}', version => 0::smallint", "version_positive"),
    ] {
        let call = sqlx::AssertSqlSafe(format!("select event_box.emit_at({arguments})"));
        let error = sqlx::query(call).execute(&log.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().constraint(), Some(constraint), "{arguments}");
    }
    log.close().await;
}
