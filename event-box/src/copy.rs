use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr};

use crate::{outbox::Columns, schema::Schema};

const COPY: &str =
    "copy event_box.events (id, topic, version, partition_key, payload, headers) from stdin (format binary)";
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const FIELDS: i16 = 6;
/// A message is sent once it holds this many bytes.
const CHUNK: usize = 256 * 1024;

/// Sends the events in COPY's binary format (PostgreSQL's manual, "COPY", "Binary Format").
pub(crate) async fn send(
    schema: &Schema,
    connection: &mut PgConnection,
    events: &Columns,
    headers: Option<&[u8]>,
) -> Result<(), sqlx::Error> {
    let statement = schema.rewrite(AssertSqlSafe(COPY).into_sql_str());
    let mut copy = connection.copy_in_raw(statement.as_str()).await?;
    let mut buffer = Vec::with_capacity(CHUNK * 2);
    buffer.extend_from_slice(SIGNATURE);
    for i in 0..events.ids.len() {
        buffer.extend_from_slice(&FIELDS.to_be_bytes());
        field(&mut buffer, Some(events.ids[i].as_bytes()));
        field(&mut buffer, Some(events.topics[i].as_bytes()));
        field(&mut buffer, Some(&events.versions[i].to_be_bytes()));
        field(&mut buffer, events.keys[i].as_ref().map(String::as_bytes));
        field(&mut buffer, Some(&events.payloads[i].0));
        field(&mut buffer, headers);
        if buffer.len() >= CHUNK {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}

fn field(buffer: &mut Vec<u8>, value: Option<&[u8]>) {
    let length = value.map_or(-1, |value| value.len() as i32);
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(value.unwrap_or_default());
}
