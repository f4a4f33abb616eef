use std::time::SystemTime;

use uuid::Uuid;

use crate::headers::Headers;

/// One event as it stands in the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) sequence: i64,
    pub(crate) id: Uuid,
    pub(crate) topic: String,
    pub(crate) version: i16,
    pub(crate) partition_key: Option<String>,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) emitted_at: SystemTime,
}
