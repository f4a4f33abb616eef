use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use sqlx::PgExecutor;

use crate::{
    event::Event,
    schema::Schema,
    types::{RawJson, Timestamp},
};

/// A log to make assertions about: that in schema `event_box`, or in another by [`in_schema`](Self::in_schema). The functions of this module
/// are its methods for the former.
///
/// ```no_run
/// # use event_box::{BoxError, Event, Outbox, Schema, testing};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # struct Paid { order_id: i64 }
/// # async fn pays(tx: &mut sqlx::PgConnection) -> Result<(), BoxError> {
/// let billing = Schema::new("billing_events")?;
/// Outbox::new().schema(billing.clone()).emit(&mut *tx, &Paid { order_id: 7 }).await?;
/// testing::Log::in_schema(billing).assert_emitted(&mut *tx, &Paid { order_id: 7 }).await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Log {
    schema: Schema,
}

impl Log {
    /// The log in this schema.
    pub fn in_schema(schema: Schema) -> Self {
        Self { schema }
    }

    /// As [`emitted`](super::emitted).
    ///
    /// # Panics
    /// Where the log cannot be read, or holds an event of the topic that is not of this type.
    pub async fn emitted<E: Event>(&self, executor: impl PgExecutor<'_>) -> Vec<E> {
        let (logged, _) = self.stored::<E>(executor).await;
        logged.iter().map(Stored::decode).collect()
    }

    /// As [`delayed`](super::delayed).
    ///
    /// # Panics
    /// Where the log cannot be read, or a delayed event of the topic is not of this type.
    pub async fn delayed<E: Event>(&self, executor: impl PgExecutor<'_>) -> Vec<(E, SystemTime)> {
        let (_, delayed) = self.stored::<E>(executor).await;
        let waiting = delayed.iter().filter_map(|stored| Some((stored.decode(), stored.due.as_ref()?.at)));
        waiting.collect()
    }

    /// As [`assert_emitted`](super::assert_emitted).
    ///
    /// # Panics
    /// Where there is none: with the difference to the one that comes closest, and how many there were.
    pub async fn assert_emitted<E: Event>(&self, executor: impl PgExecutor<'_>, expected: &E) {
        let (logged, delayed) = self.stored::<E>(executor).await;
        assert_among(&logged, "emitted", expected, None, &elsewhere(&delayed));
    }

    /// As [`assert_delayed`](super::assert_delayed).
    ///
    /// # Panics
    /// Where there is none: with the difference to the one that comes closest, and how many there were.
    pub async fn assert_delayed<E: Event>(&self, executor: impl PgExecutor<'_>, expected: &E, delay: Duration) {
        let (_, delayed) = self.stored::<E>(executor).await;
        // As an emit rounds it.
        let delay = Duration::from_micros(delay.as_nanos().div_ceil(1_000).try_into().unwrap_or(u64::MAX));
        assert_among(&delayed, "delayed", expected, Some(delay), "");
    }

    /// As [`assert_emitted_matching`](super::assert_emitted_matching).
    ///
    /// # Panics
    /// Where there is none: with all that were emitted.
    pub async fn assert_emitted_matching<E: Event>(&self, executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
        let (all, delayed) = self.stored::<E>(executor).await;
        if !all.iter().any(|stored| stored.matches(&matches)) {
            let (name, elsewhere) = (name_of::<E>(), elsewhere(&delayed));
            panic!("no {name} that matches was emitted; {}{elsewhere}", listed(all.iter()));
        }
    }

    /// As [`assert_not_emitted`](super::assert_not_emitted).
    ///
    /// # Panics
    /// Where there is one: with all such.
    pub async fn assert_not_emitted<E: Event>(&self, executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
        let (mut all, delayed) = self.stored::<E>(executor).await;
        all.extend(delayed);
        let unwanted: Vec<_> = all.iter().filter(|stored| stored.matches(&matches)).collect();
        if !unwanted.is_empty() {
            panic!("{} should not have been emitted; {}", name_of::<E>(), listed(unwanted.into_iter()));
        }
    }

    /// What is in the log, in its order, and what waits for its time, in the order of the due times.
    async fn stored<E: Event>(&self, executor: impl PgExecutor<'_>) -> (Vec<Stored>, Vec<Stored>) {
        let topics: Vec<String> = E::TOPICS.iter().map(|topic| (*topic).to_owned()).collect();
        let rows = sqlx::query!(
            r#"select topic as "topic!", version as "version!", partition_key, payload as "payload!: RawJson",
                      due_at as "due_at: Timestamp", delay
               from (
                   select topic, version, partition_key, payload, null as due_at, null as delay, sequence as place
                   from event_box.events where topic = any($1) and erased_at is null
                   union all
                   select topic, version, partition_key, payload, due_at,
                          (extract(epoch from due_at - emitted_at) * 1000000)::bigint, ordinal
                   from event_box.delayed where topic = any($1)
               ) as emitted
               order by due_at, place"#,
            &topics,
        )
        .fetch_all(self.schema.over(executor))
        .await
        .unwrap_or_else(|error| {
            let schema = self.schema.name();
            panic!("the event log in schema `{schema}` cannot be read (was `event_box::migrate` run?): {error}")
        });
        let stored = rows.into_iter().map(|row| Stored {
            topic: row.topic,
            version: row.version,
            partition_key: row.partition_key,
            payload: row.payload.0,
            due: row.due_at.zip(row.delay).map(|(at, micros)| {
                // One that was due when it was emitted has none.
                Due { at: at.0, delay: Duration::from_micros(micros.try_into().unwrap_or_default()) }
            }),
        });
        stored.partition(|stored| stored.due.is_none())
    }
}

struct Stored {
    topic: String,
    version: i16,
    partition_key: Option<String>,
    payload: Vec<u8>,
    /// Of a delayed event.
    due: Option<Due>,
}

struct Due {
    at: SystemTime,
    /// From the start of the statement that emitted it.
    delay: Duration,
}

impl Stored {
    fn decode<E: Event>(&self) -> E {
        let Self { topic, version, payload, .. } = self;
        E::decode(topic, *version, payload).unwrap_or_else(|error| {
            let (name, payload) = (name_of::<E>(), String::from_utf8_lossy(payload));
            panic!("an event of topic `{topic}` is no {name}: {error}\n{payload}")
        })
    }

    fn matches<E: Event>(&self, matches: impl Fn(&E) -> bool) -> bool {
        E::decode(&self.topic, self.version, &self.payload).is_ok_and(|event| matches(&event))
    }

    fn shown(&self) -> String {
        let delay = self.due.as_ref().map(|due| due.delay);
        shown(&self.topic, self.partition_key.as_deref(), delay, &self.payload)
    }
}

fn assert_among<E: Event>(all: &[Stored], how: &str, expected: &E, delay: Option<Duration>, elsewhere: &str) {
    let payload = expected.encode().expect("the expected event has a JSON form");
    let wanted = shown(expected.topic(), expected.partition_key().as_deref(), delay, &payload);
    let found: Vec<_> = all.iter().map(Stored::shown).collect();
    if found.contains(&wanted) {
        return;
    }
    let likeness = |text: &String| similar::TextDiff::from_lines(text, &wanted).ratio();
    let nearest = found.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let mut message = format!("no such {} was {how}; {}{elsewhere}", name_of::<E>(), count(all));
    if let Some(nearest) = nearest {
        let diff = similar::TextDiff::from_lines(nearest, &wanted);
        let header = format!("{how}, the nearest");
        let diff = diff.unified_diff().context_radius(100).header(&header, "expected").to_string();
        let _ = write!(message, "\n{diff}");
    } else {
        let _ = write!(message, "\nexpected:\n{wanted}");
    }
    panic!("{message}");
}

fn shown(topic: &str, key: Option<&str>, delay: Option<Duration>, payload: &[u8]) -> String {
    let payload = match serde_json::from_slice::<Value>(payload) {
        Ok(value) => format!("{value:#}"),
        Err(_) => String::from_utf8_lossy(payload).into_owned(),
    };
    let delay = delay.map(|delay| format!("delay: {delay:?}\n")).unwrap_or_default();
    format!("topic: {topic}\npartition key: {}\n{delay}payload: {payload}\n", key.unwrap_or("none"))
}

fn count(all: &[Stored]) -> String {
    match all.len() {
        0 => "none at all is visible to this executor".to_owned(),
        1 => "one other is visible to this executor".to_owned(),
        n => format!("{n} others are visible to this executor"),
    }
}

fn elsewhere(delayed: &[Stored]) -> String {
    match delayed.len() {
        0 => String::new(),
        n => format!(" ({n} delayed: see `assert_delayed`)"),
    }
}

fn listed<'s>(all: impl Iterator<Item = &'s Stored>) -> String {
    let shown: Vec<_> = all.map(Stored::shown).collect();
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
