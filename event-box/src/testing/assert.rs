use std::fmt::Write;

use serde_json::Value;
use sqlx::PgExecutor;

use crate::{event::Event, schema::Schema, types::RawJson};

/// The events of a type that the executor sees, oldest first: those of an open transaction's own, and whatever is committed.
///
/// # Panics
/// Where the log cannot be read, or holds an event of the topic that is not of this type.
pub async fn emitted<E: Event>(executor: impl PgExecutor<'_>) -> Vec<E> {
    emitted_in(executor, &Schema::default()).await
}

/// The same for a log in another schema.
///
/// # Panics
/// As [`emitted`].
pub async fn emitted_in<E: Event>(executor: impl PgExecutor<'_>, schema: &Schema) -> Vec<E> {
    let decode = |stored: Stored| {
        E::decode(&stored.topic, stored.version, &stored.payload).unwrap_or_else(|error| {
            let Stored { topic, payload, .. } = &stored;
            panic!(
                "an event of topic `{topic}` is no {}: {error}\n{}",
                name_of::<E>(),
                String::from_utf8_lossy(payload)
            )
        })
    };
    stored::<E>(executor, schema).await.into_iter().map(decode).collect()
}

/// Asserts that an event like this was emitted: of its topic, with its partition key and the same payload, key order of objects aside.
///
/// # Panics
/// Where there is none: with the difference to the one that comes closest, and how many there were.
pub async fn assert_emitted<E: Event>(executor: impl PgExecutor<'_>, expected: &E) {
    let all = stored::<E>(executor, &Schema::default()).await;
    let payload = expected.encode().expect("the expected event has a JSON form");
    let wanted = shown(expected.topic(), expected.partition_key().as_deref(), &payload);
    let found: Vec<_> =
        all.iter().map(|stored| shown(&stored.topic, stored.partition_key.as_deref(), &stored.payload)).collect();
    if found.contains(&wanted) {
        return;
    }
    let likeness = |text: &String| similar::TextDiff::from_lines(text, &wanted).ratio();
    let nearest = found.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let mut message = format!("no such {} was emitted; {}", name_of::<E>(), count(&all));
    if let Some(nearest) = nearest {
        let diff = similar::TextDiff::from_lines(nearest, &wanted);
        let diff = diff.unified_diff().context_radius(100).header("emitted, the nearest", "expected").to_string();
        let _ = write!(message, "\n{diff}");
    } else {
        let _ = write!(message, "\nexpected:\n{wanted}");
    }
    panic!("{message}");
}

/// Asserts that an event of this type was emitted for which the matcher holds.
///
/// # Panics
/// Where there is none: with all that were emitted.
pub async fn assert_emitted_matching<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    let all = decoded::<E>(executor).await;
    if !all.iter().any(|(event, _)| matches(event)) {
        panic!("no {} that matches was emitted; {}", name_of::<E>(), listed(all.iter().map(|(_, stored)| stored)));
    }
}

/// Asserts that no event of this type was emitted for which the matcher holds.
///
/// # Panics
/// Where there is one: with all such.
pub async fn assert_not_emitted<E: Event>(executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
    let all = decoded::<E>(executor).await;
    let unwanted: Vec<_> = all.iter().filter(|(event, _)| matches(event)).map(|(_, stored)| stored).collect();
    if !unwanted.is_empty() {
        panic!("{} should not have been emitted; {}", name_of::<E>(), listed(unwanted.into_iter()));
    }
}

struct Stored {
    topic: String,
    version: i16,
    partition_key: Option<String>,
    payload: Vec<u8>,
}

async fn stored<E: Event>(executor: impl PgExecutor<'_>, schema: &Schema) -> Vec<Stored> {
    let topics: Vec<String> = E::TOPICS.iter().map(|topic| (*topic).to_owned()).collect();
    let rows = sqlx::query!(
        r#"select topic, version, partition_key, payload as "payload: RawJson" from event_box.events
           where topic = any($1) and erased_at is null order by sequence"#,
        &topics,
    )
    .fetch_all(schema.over(executor))
    .await
    .unwrap_or_else(|error| panic!("the event log cannot be read (was `event_box::migrate` run?): {error}"));
    let stored = rows.into_iter().map(|row| Stored {
        topic: row.topic,
        version: row.version,
        partition_key: row.partition_key,
        payload: row.payload.0,
    });
    stored.collect()
}

async fn decoded<E: Event>(executor: impl PgExecutor<'_>) -> Vec<(E, Stored)> {
    let all = stored::<E>(executor, &Schema::default()).await;
    let decoded = all
        .into_iter()
        .filter_map(|stored| Some((E::decode(&stored.topic, stored.version, &stored.payload).ok()?, stored)));
    decoded.collect()
}

fn shown(topic: &str, key: Option<&str>, payload: &[u8]) -> String {
    let payload = match serde_json::from_slice::<Value>(payload) {
        Ok(value) => format!("{value:#}"),
        Err(_) => String::from_utf8_lossy(payload).into_owned(),
    };
    format!("topic: {topic}\npartition key: {}\npayload: {payload}\n", key.unwrap_or("none"))
}

fn count(all: &[Stored]) -> String {
    match all.len() {
        0 => "none at all is visible to this executor".to_owned(),
        1 => "one other is visible to this executor".to_owned(),
        n => format!("{n} others are visible to this executor"),
    }
}

fn listed<'s>(all: impl Iterator<Item = &'s Stored>) -> String {
    let shown: Vec<_> =
        all.map(|stored| shown(&stored.topic, stored.partition_key.as_deref(), &stored.payload)).collect();
    if shown.is_empty() {
        "none at all is visible to this executor".to_owned()
    } else {
        format!("emitted:\n{}", shown.join("\n"))
    }
}

/// The type as its author writes it.
fn name_of<E>() -> &'static str {
    let name = std::any::type_name::<E>();
    name.rsplit("::").next().unwrap_or(name)
}
