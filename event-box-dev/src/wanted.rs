use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use crate::Binaries;

/// The oldest major version that event-box supports.
const MINIMUM: u32 = 15;

/// What a PostgreSQL must be, and have beside `initdb` and `postgres`.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    majors: RangeInclusive<u32>,
    programs: Vec<&'static str>,
}

impl Wanted {
    pub(crate) fn set_majors(&mut self, majors: impl RangeBounds<u32>) {
        let first = match majors.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => MINIMUM,
        };
        let last = match majors.end_bound() {
            Bound::Included(last) => *last,
            Bound::Excluded(after) => after.saturating_sub(1),
            Bound::Unbounded => u32::MAX,
        };
        self.majors = first.max(MINIMUM)..=last;
    }

    pub(crate) fn add_programs(&mut self, programs: impl IntoIterator<Item = &'static str>) {
        self.programs.extend(programs);
    }

    /// The newest of the versions, of which the last is the newest, that would do.
    pub(crate) fn newest<'a, T>(&self, versions: &'a [(u32, T)]) -> Result<&'a T, String> {
        let newest = versions.iter().rfind(|(major, _)| self.majors.contains(major));
        newest.map(|(_, version)| version).ok_or_else(|| format!("no PostgreSQL{self} there"))
    }

    pub(crate) fn needs_programs(&self) -> bool {
        !self.programs.is_empty()
    }

    /// `binaries`, or why they are not what is wanted.
    pub(crate) fn check(&self, binaries: Binaries) -> Result<Binaries, String> {
        let missing: Vec<_> =
            self.programs.iter().copied().filter(|program| binaries.program(program).is_none()).collect();
        let fault = match binaries.major() {
            major if major < *self.majors.start() => format!("is older than {}", self.majors.start()),
            major if major > *self.majors.end() => format!("is newer than {}", self.majors.end()),
            _ if !missing.is_empty() => format!("has no {}", missing.join(", no ")),
            _ => return Ok(binaries),
        };
        Err(format!("PostgreSQL {} in {} {fault}", binaries.version(), binaries.dir().display()))
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self { majors: MINIMUM..=u32::MAX, programs: Vec::new() }
    }
}

/// Follows the word PostgreSQL.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self.majors.start(), *self.majors.end()) {
            (MINIMUM, u32::MAX) => {}
            (first, u32::MAX) => write!(f, " {first} or newer")?,
            (first, last) if first == last => write!(f, " {first}")?,
            (first, last) => write!(f, " {first} to {last}")?,
        }
        match &self.programs[..] {
            [] => Ok(()),
            programs => write!(f, " with {}", programs.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    const VERSIONS: [(u32, &str); 3] = [(15, "15.18"), (17, "17.10"), (18, "18.4")];

    fn wanted(change: impl FnOnce(&mut Wanted)) -> Wanted {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        wanted
    }

    #[test]
    fn the_newest_that_will_do_is_taken() {
        assert_eq!(Wanted::default().newest(&VERSIONS), Ok(&"18.4"));
        assert_eq!(wanted(|wanted| wanted.set_majors(15..18)).newest(&VERSIONS), Ok(&"17.10"));
        let error = wanted(|wanted| wanted.set_majors(16..=16)).newest(&VERSIONS).expect_err("has no 16");
        assert_eq!(error, "no PostgreSQL 16 there");
    }

    #[test]
    fn it_is_put_into_words() {
        assert_eq!(Wanted::default().to_string(), "");
        let newer = wanted(|wanted| {
            wanted.set_majors(17..);
            wanted.add_programs(["psql", "pg_dump"]);
        });
        assert_eq!(newer.to_string(), " 17 or newer with psql, pg_dump");
        assert_eq!(wanted(|wanted| wanted.set_majors(..=16)).to_string(), " 15 to 16");
    }
}
