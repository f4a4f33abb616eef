use std::fmt::Write;

use serde_json::Value;
use sqlx::PgExecutor;

use crate::{event::Event, schema::Schema, types::RawJson};

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
        self.stored::<E>(executor).await.into_iter().map(decode).collect()
    }

    /// As [`assert_emitted`](super::assert_emitted).
    ///
    /// # Panics
    /// Where there is none: with the difference to the one that comes closest, and how many there were.
    pub async fn assert_emitted<E: Event>(&self, executor: impl PgExecutor<'_>, expected: &E) {
        let all = self.stored::<E>(executor).await;
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

    /// As [`assert_emitted_matching`](super::assert_emitted_matching).
    ///
    /// # Panics
    /// Where there is none: with all that were emitted.
    pub async fn assert_emitted_matching<E: Event>(&self, executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
        let all = self.decoded::<E>(executor).await;
        if !all.iter().any(|(event, _)| matches(event)) {
            panic!("no {} that matches was emitted; {}", name_of::<E>(), listed(all.iter().map(|(_, stored)| stored)));
        }
    }

    /// As [`assert_not_emitted`](super::assert_not_emitted).
    ///
    /// # Panics
    /// Where there is one: with all such.
    pub async fn assert_not_emitted<E: Event>(&self, executor: impl PgExecutor<'_>, matches: impl Fn(&E) -> bool) {
        let all = self.decoded::<E>(executor).await;
        let unwanted: Vec<_> = all.iter().filter(|(event, _)| matches(event)).map(|(_, stored)| stored).collect();
        if !unwanted.is_empty() {
            panic!("{} should not have been emitted; {}", name_of::<E>(), listed(unwanted.into_iter()));
        }
    }

    async fn stored<E: Event>(&self, executor: impl PgExecutor<'_>) -> Vec<Stored> {
        let topics: Vec<String> = E::TOPICS.iter().map(|topic| (*topic).to_owned()).collect();
        let rows = sqlx::query!(
            r#"select topic, version, partition_key, payload as "payload: RawJson" from event_box.events
           where topic = any($1) and erased_at is null order by sequence"#,
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
        });
        stored.collect()
    }

    async fn decoded<E: Event>(&self, executor: impl PgExecutor<'_>) -> Vec<(E, Stored)> {
        let all = self.stored::<E>(executor).await;
        let decoded = all
            .into_iter()
            .filter_map(|stored| Some((E::decode(&stored.topic, stored.version, &stored.payload).ok()?, stored)));
        decoded.collect()
    }
}

struct Stored {
    topic: String,
    version: i16,
    partition_key: Option<String>,
    payload: Vec<u8>,
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
