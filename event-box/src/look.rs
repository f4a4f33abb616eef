use std::time::Duration;

use sqlx::PgConnection;

use crate::schema::Schema;

/// What one look at a group's partitions found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Partitions worth a claim, least recently advanced first.
    pub(crate) partitions: Vec<i16>,
    /// Whether any of them holds an event to handle; the others only want their cursors moved.
    pub(crate) work: bool,
    /// When the earliest retry falls due.
    pub(crate) retry_in: Option<Duration>,
}

/// Asks which partitions of the group have work. Takes no lock and no xid.
pub(crate) async fn look(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
) -> Result<Look, sqlx::Error> {
    let rows = sqlx::query_file!("src/look.sql", group, topics).fetch_all(schema.over(connection)).await?;
    let mut look = Look::default();
    for row in rows {
        let due = row.due_in_seconds.is_some_and(|seconds| seconds <= 0.0);
        if row.work || row.tidy || due {
            look.partitions.push(row.partition);
            look.work |= row.work || due;
        } else if let Some(seconds) = row.due_in_seconds {
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            look.retry_in = Some(look.retry_in.map_or(wait, |earlier| earlier.min(wait)));
        }
    }
    Ok(look)
}
