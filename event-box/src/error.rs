use crate::schema::Schema;

/// An error of any kind, as handlers return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an event was not emitted. Nothing of it is in the log; but see [`Database`](Self::Database) for an emit on a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The log's tables are not there.
    #[error("schema `{schema}` holds no event log: run `event_box::migrate(&pool)` once before emitting")]
    NotMigrated {
        /// The schema that was looked in.
        schema: String,
        /// What PostgreSQL said.
        source: sqlx::Error,
    },
    /// The event has no JSON form.
    #[error("the `{topic}` event does not serialize to JSON")]
    Encode {
        /// The event's topic.
        topic: &'static str,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The payload is above the outbox's limit.
    #[error(
        "the `{topic}` event's payload has {bytes} bytes, the limit is {limit}: raise it by `Outbox::max_payload_bytes`, or store \
         the bulk elsewhere and emit a reference"
    )]
    PayloadTooLarge {
        /// The event's topic.
        topic: &'static str,
        /// The payload's size.
        bytes: usize,
        /// What the outbox allows.
        limit: usize,
    },
    /// The topic is empty, longer than 255 bytes, or holds a NUL.
    #[error("`{topic}` ({} bytes) is not a topic: use 1 to 255 bytes without NUL", topic.len())]
    Topic {
        /// The topic.
        topic: String,
    },
    /// The version is below 1.
    #[error("the `{topic}` event has version {version}: versions start at 1")]
    Version {
        /// The event's topic.
        topic: &'static str,
        /// Its version.
        version: i16,
    },
    /// The key is empty, longer than 512 bytes, or holds a NUL.
    #[error("the `{topic}` event's partition key has {bytes} bytes: use 1 to 512 bytes without NUL, or no key at all")]
    PartitionKey {
        /// The event's topic.
        topic: &'static str,
        /// The key's size.
        bytes: usize,
    },
    /// A header's name is not one.
    #[error(
        "`{name}` on the `{topic}` event is not a header name: use 1 to 128 ASCII letters, digits, `-`, `_` or `.`"
    )]
    HeaderName {
        /// The event's topic.
        topic: &'static str,
        /// The name.
        name: String,
    },
    /// The due time is before 4713 BC or after 294276 AD.
    #[error(
        "the `{topic}` event is due at a time that PostgreSQL cannot hold: use one from 4713 BC to 294276 AD, or a shorter delay"
    )]
    DueTime {
        /// The event's topic.
        topic: &'static str,
    },
    /// The database refused or could not be reached; a transaction it happened in is aborted. On a pool, where the connection was lost
    /// after the statement was sent, the event may have been committed all the same.
    #[error("the event could not be written to the log")]
    Database(#[source] sqlx::Error),
}

impl EmitError {
    pub(crate) fn from_database(source: sqlx::Error, schema: &Schema) -> Self {
        if is_missing_table(&source) {
            return Self::NotMigrated { schema: schema.name().to_owned(), source };
        }
        Self::Database(source)
    }
}

/// PostgreSQL's `undefined_table` and `invalid_schema_name`.
pub(crate) fn is_missing_table(error: &sqlx::Error) -> bool {
    has_code(error, &["42P01", "3F000"])
}

/// PostgreSQL's `insufficient_privilege`.
pub(crate) fn is_missing_privilege(error: &sqlx::Error) -> bool {
    has_code(error, &["42501"])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| codes.contains(&code.as_ref()))
}
