//! How event-box's column types cross the wire, whatever features of sqlx the application chose.

use std::{
    num::TryFromIntError,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef, types::Oid},
};

const JSON: Oid = Oid(114);
const JSON_ARRAY: Oid = Oid(199);
const TIMESTAMPTZ: Oid = Oid(1184);
/// 2000-01-01, from which PostgreSQL counts, after 1970-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);
/// PostgreSQL's `MIN_TIMESTAMP` and `END_TIMESTAMP`.
const RANGE: Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A `json` document byte for byte. (sqlx's own `Json` writes a leading blank into a `json` column.)
#[derive(Debug)]
pub(crate) struct RawJson(pub(crate) Vec<u8>);

impl Type<Postgres> for RawJson {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON)
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        ty.oid() == Some(JSON)
    }
}

impl PgHasArrayType for RawJson {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON_ARRAY)
    }
}

impl Encode<'_, Postgres> for RawJson {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for RawJson {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_bytes()?.to_vec()))
    }
}

/// A `timestamptz`, without sqlx's chrono or time feature.
#[derive(Debug)]
pub(crate) struct Timestamp(pub(crate) SystemTime);

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        ty.oid() == Some(TIMESTAMPTZ)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        let since = Duration::from_micros(micros.unsigned_abs());
        let epoch = UNIX_EPOCH + POSTGRES_EPOCH;
        let time = if micros < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
        time.map(Self).ok_or_else(|| "a time that SystemTime cannot hold".into())
    }
}

impl Timestamp {
    /// Since 2000, rounded down to PostgreSQL's microseconds.
    fn micros(&self) -> Result<i64, TryFromIntError> {
        match self.0.duration_since(UNIX_EPOCH + POSTGRES_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()),
            Err(before) => i64::try_from(before.duration().as_nanos().div_ceil(1_000)).map(|micros| -micros),
        }
    }

    /// `None` where PostgreSQL has no such time: before 4713 BC, or after 294276 AD.
    pub(crate) fn in_range(self) -> Option<Self> {
        self.micros().is_ok_and(|micros| RANGE.contains(&micros)).then_some(self)
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.micros()?.to_be_bytes());
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down_to_microseconds() {
        let epoch = UNIX_EPOCH + POSTGRES_EPOCH;
        let encoded = |time: SystemTime| {
            let mut buffer = PgArgumentBuffer::default();
            let _ = Timestamp(time).encode_by_ref(&mut buffer).unwrap();
            i64::from_be_bytes(buffer[..].try_into().unwrap())
        };
        assert_eq!(encoded(epoch + Duration::from_nanos(1_999)), 1);
        assert_eq!(encoded(epoch - Duration::from_nanos(1_000)), -1);
        assert_eq!(encoded(epoch - Duration::from_nanos(1_001)), -2);
    }
}
