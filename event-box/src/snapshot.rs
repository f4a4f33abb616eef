use std::{fmt, str::FromStr};

/// PostgreSQL's `pg_snapshot`: which transactions had ended when it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every transaction below this had ended.
    pub(crate) xmin: u64,
    /// One past the latest that had ended: this and later ones had not.
    pub(crate) xmax: u64,
    /// Those between that were still open, ascending.
    pub(crate) xip: Vec<u64>,
}

impl Snapshot {
    /// Whether the transaction had ended.
    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && (xid < self.xmin || self.xip.binary_search(&xid).is_err())
    }

    /// The same, but this transaction counts as open.
    pub(crate) fn without(mut self, xid: u64) -> Self {
        if self.sees(xid) {
            let at = self.xip.partition_point(|open| *open < xid);
            self.xip.insert(at, xid);
            self.xmin = self.xmin.min(xid);
        }
        self
    }

    /// Whether a transaction below `next_xid` that `earlier` saw open has ended since.
    pub(crate) fn saw_end_since(&self, earlier: &Snapshot, next_xid: u64) -> bool {
        if earlier.xip.iter().any(|xid| *xid < next_xid && self.sees(*xid)) {
            return true;
        }
        let (from, to) = (earlier.xmax, next_xid.min(self.xmax));
        let open = self.xip.iter().filter(|xid| (from..to).contains(*xid)).count() as u64;
        to.saturating_sub(from) > open
    }
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || format!("`{text}` is not a pg_snapshot");
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or_else(malformed);
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
        let (xmin, xmax, open) = (number(next()?)?, number(next()?)?, next()?);
        let xip = open.split(',').filter(|xid| !xid.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Self { xmin, xmax, xip })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.xip.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn text_survives_both_ways() {
        for text in ["1:1:", "10:20:10,14,19"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        assert!("10:20".parse::<Snapshot>().is_err());
        assert!("10:x:".parse::<Snapshot>().is_err());
    }

    #[test]
    fn sees_what_had_ended() {
        let s = snapshot("10:20:10,14");
        assert!(s.sees(9) && s.sees(11) && s.sees(19));
        assert!(!s.sees(10) && !s.sees(14) && !s.sees(20));
    }

    #[test]
    fn without_a_transaction_it_counts_as_open() {
        let s = || snapshot("10:20:10,14");
        assert_eq!(s().without(9), snapshot("9:20:9,10,14"));
        assert_eq!(s().without(12), snapshot("10:20:10,12,14"));
        assert_eq!([s().without(14), s().without(20)], [s(), s()]);
        assert_eq!(snapshot("20:20:").without(19), snapshot("19:20:19"));
    }

    #[test]
    fn an_end_counts_only_below_the_next_xid() {
        let earlier = snapshot("10:20:10,14");
        assert!(!snapshot("10:20:10,14").saw_end_since(&earlier, 23));
        assert!(snapshot("14:20:14").saw_end_since(&earlier, 23), "10 ended");
        assert!(snapshot("10:22:10,14,20").saw_end_since(&earlier, 23), "21 ended");
        assert!(!snapshot("10:22:10,14,20,21").saw_end_since(&earlier, 22));
        assert!(!snapshot("10:30:10,14,20,21,22").saw_end_since(&earlier, 23), "23 to 29 began after the poll");
    }
}
