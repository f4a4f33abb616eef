use event_box::{EventBox, Outbox, PullBuilder, Schema, migrate};
use event_box_tests::{Counted, TestLog};
use proptest::prelude::*;

use super::{config, drawn};

/// Characters that mean something to somebody, in SQL or in formats, and some that do not.
const ALPHABET: &str = "[a-zA-Z0-9_.\"';:,()%{}*/ \\-\\[\\]?!@#|&<>=`~^+\u{e9}\u{1F600}\u{202E}\u{2028}\u{FEFF}]";

const NOTABLE: [&str; 18] = [
    "\"; drop schema public cascade; --",
    "'; drop schema public cascade; --",
    "event_box",
    "event_box.event_box.events",
    "\"event_box\".",
    "'event_box.events'::regclass",
    "a\"\"b''c",
    "\"",
    "'",
    ".",
    " ",
    "select",
    "USER",
    "/* */ -- {} %s :x ?",
    "{schema}",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}\u{1F600}",
    "n\u{e4}me \u{202E}\u{2028}",
];

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn names_pass_or_are_refused_by_the_rule_that_is_documented(name in prop_oneof![any::<String>(), ".{0,60}", "pg_.{0,4}", "[a-z$\\\\\\x00-\\x1f\\x7f-\\x9f]{0,5}"]) {
        let length = (1..=48).contains(&name.len());
        let passes = length && !name.contains(|c: char| c.is_control() || c == '$' || c == '\\') && !name.starts_with("pg_");
        match Schema::new(&name) {
            Ok(schema) => prop_assert!(passes && schema.name() == name),
            Err(error) => {
                prop_assert!(!passes);
                let told = format!("`{name}` ({} bytes) cannot name a log's schema", name.len());
                prop_assert!(error.to_string().starts_with(&told), "{}", error);
            }
        }
    }
}

/// A log under that name: made, written to by every way, pulled from, operated, and nothing beside it touched.
async fn try_name(log: &TestLog, name: &str) {
    let schema = Schema::new(name).unwrap();
    let own = EventBox::in_schema(log.pool.clone(), schema.clone());
    migrate(&own).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let event = |n| Counted { key: "k".to_owned(), n };
    let outbox = Outbox::new().schema(schema);
    let mut tx = log.pool.begin().await.unwrap();
    outbox.emit(&mut *tx, &event(1)).await.unwrap();
    outbox.emit_all(&mut *tx, [&event(2)]).await.unwrap();
    outbox.copy(&mut tx, [&event(3)]).await.unwrap();
    tx.commit().await.unwrap();
    let call =
        format!("select \"{}\".emit('test.counted', '{{\"key\":\"k\",\"n\":4}}', 'k')", name.replace('"', "\"\""));
    sqlx::query(sqlx::AssertSqlSafe(call)).execute(&log.pool).await.unwrap();
    let pull = PullBuilder::new(&own, "g").event::<Counted>().open().await.unwrap();
    let mut tx = log.pool.begin().await.unwrap();
    let mut batch = pull.batch(&mut tx, 10).await.unwrap();
    for n in 1..=4 {
        let pulled = batch.next().unwrap_or_else(|| panic!("{name}: event {n}"));
        assert_eq!(pulled.decode::<Counted>().unwrap(), event(n), "{name}");
    }
    tx.commit().await.unwrap();
    assert_eq!(own.group("g").health().await.unwrap().pending(), 0, "{name}");
    let schemas: Vec<String> = sqlx::query_scalar(
        "select nspname::text from pg_namespace where nspname not like 'pg\\_%' and nspname <> 'information_schema' order by 1",
    )
    .fetch_all(&log.pool)
    .await
    .unwrap();
    let mut expected = vec![name.to_owned(), "public".to_owned()];
    expected.sort();
    assert_eq!(schemas, expected, "{name}");
    assert_eq!(
        log.number("select count(*) from pg_class where relnamespace = 'public'::regnamespace").await,
        1,
        "{name}"
    );
    assert_eq!(log.number("select count(*) from canary").await, 0, "{name}");
    let drop = format!("drop schema \"{}\" cascade", name.replace('"', "\"\""));
    sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&log.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_pass_inject_nothing() {
    let log = TestLog::empty().await;
    log.sql("create table canary ()").await;
    let names = drawn(12, format!("{ALPHABET}{{1,20}}").as_str());
    let names = names.into_iter().filter(|name| Schema::new(name).is_ok());
    for name in NOTABLE.into_iter().map(str::to_owned).chain(names) {
        try_name(&log, &name).await;
    }
    log.close().await;
}
