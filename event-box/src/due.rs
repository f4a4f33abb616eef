use std::time::{Duration, SystemTime};

use sqlx::postgres::types::PgInterval;

use crate::types::Timestamp;

/// When an event goes into the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Due {
    /// With its transaction.
    #[default]
    Now,
    /// So long after the statement's start.
    After(Duration),
    At(SystemTime),
}

/// As the database is told: the time, or how long from the statement's start.
#[derive(Debug)]
pub(crate) enum DueTime {
    Delay(PgInterval),
    At(Timestamp),
}

impl Due {
    /// `None` where the event is not delayed.
    ///
    /// # Errors
    /// Where PostgreSQL has no such time.
    pub(crate) fn checked(self) -> Result<Option<DueTime>, OutOfRange> {
        match self {
            Self::Now | Self::After(Duration::ZERO) => Ok(None),
            Self::After(delay) => {
                let due = SystemTime::now().checked_add(delay).ok_or(OutOfRange)?;
                Timestamp(due).in_range().ok_or(OutOfRange)?;
                // Rounded up: never due too early.
                let microseconds = i64::try_from(delay.as_nanos().div_ceil(1_000)).map_err(|_| OutOfRange)?;
                Ok(Some(DueTime::Delay(PgInterval { months: 0, days: 0, microseconds })))
            }
            Self::At(time) => Timestamp(time).in_range().map(DueTime::At).map(Some).ok_or(OutOfRange),
        }
    }
}

/// Before 4713 BC or after 294276 AD.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const YEAR: Duration = Duration::from_secs(31_556_952);

    #[test]
    fn a_zero_delay_is_none_and_any_other_is_rounded_up() {
        assert!(Due::Now.checked().unwrap().is_none());
        assert!(Due::After(Duration::ZERO).checked().unwrap().is_none());
        for (nanos, micros) in [(1, 1), (1_000, 1), (1_001, 2), (5_000_000, 5_000)] {
            let due = Due::After(Duration::from_nanos(nanos)).checked().unwrap();
            let Some(DueTime::Delay(delay)) = due else { panic!("{due:?}") };
            assert_eq!((delay.months, delay.days, delay.microseconds), (0, 0, micros));
        }
    }

    #[test]
    fn what_postgresql_cannot_hold_is_refused() {
        assert!(Due::After(280_000 * YEAR).checked().is_ok());
        assert!(Due::At(UNIX_EPOCH + 292_306 * YEAR).checked().is_ok(), "294276 AD");
        assert!(Due::At(UNIX_EPOCH - 6_600 * YEAR).checked().is_ok(), "4631 BC");
        for due in [
            Due::After(Duration::MAX),
            Due::After(293_000 * YEAR),
            Due::At(UNIX_EPOCH + 292_308 * YEAR),
            Due::At(UNIX_EPOCH - 6_700 * YEAR),
            Due::At(UNIX_EPOCH + Duration::from_secs(1 << 62)),
        ] {
            assert_eq!(due.checked().err(), Some(OutOfRange), "{due:?}");
        }
    }
}
