//! Every SQL text of the crate, in a schema whose name needs all the quoting there is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::{EventBox, test_log::TestLog};

const ODD: &str = r#"it's "Odd" – event_box.événements"#;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of this ending in a directory of the crate and below.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What the checked macros send.
fn checked_queries() -> Vec<String> {
    let described = files(".sqlx", ".json").into_iter().map(|path| {
        let described: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
        described["query"].as_str().unwrap().to_owned()
    });
    described.collect()
}

/// The string literals of the crate's own sources, tests and comments left out.
fn literals() -> Vec<String> {
    let tests = ["tests", "tests.rs", "plans.rs", "test_log.rs"];
    let is_test = |path: &PathBuf| path.iter().any(|part| tests.iter().any(|test| part == *test));
    let mut literals = Vec::new();
    for path in files("src", ".rs").into_iter().filter(|path| !is_test(path)) {
        let source = read(&path);
        let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<_> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n").replace("'\"'", "");
        let mut rest = code.as_str();
        while let Some(quote) = rest.find('"') {
            let (before, literal) = rest.split_at(quote);
            let raw = before.ends_with("r#");
            let end = if raw {
                literal.find("\"#").unwrap()
            } else {
                let mut quotes = literal.match_indices('"').skip(1).map(|(at, _)| at);
                quotes.find(|at| unescaped(&literal[1..*at])).unwrap()
            };
            literals.push(literal[1..end].to_owned());
            rest = &literal[end + 1..];
        }
    }
    literals
}

/// Whether a quote after this text ends the literal.
fn unescaped(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0
}

/// What names the default schema after SQL was meant for another one.
fn left_behind(sql: &str) -> bool {
    let moved = Schema::new("moved").unwrap().rewrite(AssertSqlSafe(sql).into_sql_str());
    moved.as_str().contains("event_box")
}

#[test]
fn no_text_keeps_the_default_schemas_name() {
    let checked = checked_queries();
    let files = files("migrations", ".sql").into_iter().chain(files("src", ".sql"));
    let texts: Vec<_> = checked.iter().cloned().chain(files.map(|path| read(&path))).collect();
    assert!(texts.len() > 80, "{} texts", texts.len());
    for text in texts {
        assert!(!left_behind(&text), "{text}");
    }
}

/// What is sent unchecked: savepoints are named `event_box` too, and are no schema's; `event_box::` is a path of Rust, in messages, and
/// `messaging.event_box.` an attribute of OpenTelemetry's.
#[test]
fn what_is_sent_by_hand_is_known() {
    let checked = checked_queries();
    let by_hand = |literal: &String| {
        let elsewhere = ["savepoint event_box", "event_box::", "messaging.event_box."];
        let literal = elsewhere.iter().fold(literal.clone(), |literal, known| literal.replace(known, ""));
        literal.contains("event_box") && !checked.contains(&literal)
    };
    let mut found: Vec<_> = literals().into_iter().filter(by_hand).collect();
    found.sort();
    // The default's name is `messaging.system` too.
    found.dedup();
    let copy = "copy event_box.events (id, topic, version, partition_key, payload, headers) from stdin (format binary)";
    assert_eq!(found, [copy, DEFAULT, QUALIFIER], "is it sent through `Schema::rewrite`?");
}

/// The server takes every text in a database that holds no other log.
#[tokio::test]
async fn every_text_is_understood_in_another_schema() {
    let log = TestLog::new().await;
    sqlx::raw_sql("drop schema event_box cascade").execute(&log.pool).await.unwrap();
    let schema = Schema::new(ODD).unwrap();
    crate::migrate(EventBox::in_schema(log.pool.clone(), schema.clone())).await.unwrap();
    let mut connection = log.pool.acquire().await.unwrap();
    for query in checked_queries() {
        let sql = AssertSqlSafe(query.clone()).into_sql_str();
        if let Err(error) = schema.over(&mut *connection).prepare(sql).await {
            panic!("{error}\n{query}");
        }
    }
    drop(connection);
    log.close().await;
}

#[test]
fn names_are_quoted_as_identifiers_and_within_literals() {
    let rewritten =
        |name: &str, sql: &'static str| Schema::new(name).unwrap().rewrite(sql.into_sql_str()).as_str().to_owned();
    let sql = "select nextval('event_box.s') from event_box.events";
    assert_eq!(rewritten("event_box", sql), sql);
    assert_eq!(rewritten("Other", sql), r#"select nextval('"Other".s') from "Other".events"#);
    assert_eq!(rewritten(r#"it's "a"#, sql), r#"select nextval('"it''s ""a".s') from "it's ""a".events"#);
    assert_eq!(rewritten("x event_box.y", "event_box.z"), r#""x event_box.y".z"#, "a name is not looked into");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let e_acute = "é".repeat(24);
    for name in ["a", "_", "1", "Weird schema", ODD, &"n".repeat(48), &e_acute] {
        assert_eq!(Schema::new(name).unwrap().name(), name);
    }
    for name in ["", &"n".repeat(49), &format!("{e_acute}n"), "a\0b", "a\nb", "$function$", r"a\", "pg_events"] {
        let error = Schema::new(name).unwrap_err().to_string();
        let told = format!("`{name}` ({} bytes) cannot name a log's schema: use 1 to 48 bytes", name.len());
        assert!(error.starts_with(&told), "{error}");
    }
}
