use std::process::Command;

use event_box_tests::TestLog;
use uuid::Uuid;

/// Id, topic, version, key, payload, headers.
type Row = (Uuid, String, i16, Option<String>, String, Option<String>);

#[tokio::test]
async fn psql_and_a_trigger_emit() {
    let log = TestLog::new().await;
    log.sql(
        "create table orders (id bigint primary key, cents bigint not null);
         create function announce_order() returns trigger language plpgsql as $$
         begin
             perform event_box.emit('orders.placed', row_to_json(new), new.id::text);
             return null;
         end $$;
         create trigger announce after insert on orders for each row execute function announce_order()",
    )
    .await;
    let psql = Command::new("psql")
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
