use crate::{mutation, snapshot::Snapshot};

/// Where a group stands in one partition. It has been given exactly the events with
/// `sequence <= position and (xid visible in snapshot or (sequence <= reached and xid visible in target))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) position: i64,
    pub(crate) snapshot: Snapshot,
    /// Aligned with the snapshot's open transactions: their events lie above.
    pub(crate) floors: Vec<i64>,
    /// The same for every transaction from the snapshot's end on.
    pub(crate) floor: i64,
    /// The sequence's last value as read before `mark_xid` was taken: whoever has that xid or a later one writes above it.
    pub(crate) mark: i64,
    pub(crate) mark_xid: u64,
    /// Set while late events wait that one batch could not take: they go out as of it, this far.
    pub(crate) target: Option<Snapshot>,
    pub(crate) reached: i64,
}

/// What a transaction knew before it took its xid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) last_value: i64,
    /// It had an xid already: then `last_value` says nothing of what it wrote before.
    pub(crate) bound: bool,
}

/// What a batch leaves behind in the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Advance {
    /// All late events that were seen are handled; the cursor is as of the read.
    To(Cursor),
    /// Late events remain: they go out as of the same snapshot, from here on.
    Partly { target: Snapshot, reached: i64 },
    /// Nothing was handled and late events remain: saving the snapshot would declare them delivered.
    Nothing,
}

impl Cursor {
    /// How the cursor moves after a read as of `seen` by transaction `own_xid`, where `handled` is the sequence of the last row handled
    /// or passed over, and `next` that of the first row that was not.
    pub(crate) fn advance(
        &self,
        seen: &Snapshot,
        own_xid: u64,
        opening: Opening,
        handled: Option<i64>,
        next: Option<i64>,
    ) -> Advance {
        if next.is_some_and(|sequence| sequence <= self.position) {
            return match handled {
                Some(reached) => Advance::Partly { target: seen.clone(), reached },
                None => Advance::Nothing,
            };
        }
        let floor_of = |xid: &u64| self.snapshot.xip.binary_search(xid).map_or(self.floor, |i| self.floors[i]);
        let mut cursor = Self {
            position: self.position.max(handled.unwrap_or(0)),
            snapshot: seen.clone(),
            floors: seen.xip.iter().map(floor_of).collect(),
            target: None,
            reached: 0,
            ..self.clone()
        };
        if seen.xmax >= self.mark_xid {
            cursor.floor = self.floor.max(self.mark);
        }
        if mutation::is("floor-is-position") {
            cursor.floor = cursor.position;
        }
        if mutation::is("empty-floors") {
            cursor.floors.fill(cursor.floor);
        }
        if !opening.bound || mutation::is("mark-while-bound") {
            cursor.mark = opening.last_value;
            cursor.mark_xid = own_xid;
        }
        Advance::To(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            position: 50,
            snapshot: "10:20:10,14".parse().unwrap(),
            floors: vec![7, 30],
            floor: 40,
            mark: 60,
            mark_xid: 22,
            target: None,
            reached: 0,
        }
    }

    const OPENING: Opening = Opening { last_value: 90, bound: false };

    fn to(advance: Advance) -> Cursor {
        let Advance::To(cursor) = advance else { panic!("{advance:?}") };
        cursor
    }

    #[test]
    fn floors_follow_their_transactions() {
        let seen = "14:30:14,25,28".parse().unwrap();
        let after = to(cursor().advance(&seen, 31, OPENING, Some(70), None));
        assert_eq!(after.floors, [30, 40, 40], "the old floor of 14; new ones start at the common floor");
        assert_eq!((after.position, after.floor, after.mark, after.mark_xid), (70, 60, 90, 31));
    }

    #[test]
    fn the_mark_is_no_floor_until_its_xid_has_passed() {
        let seen = "10:22:10,14".parse().unwrap();
        assert_eq!(to(cursor().advance(&seen, 31, OPENING, None, None)).floor, 60);
        let seen = "10:21:10,14".parse().unwrap();
        assert_eq!(to(cursor().advance(&seen, 31, OPENING, None, None)).floor, 40);
    }

    #[test]
    fn a_transaction_that_wrote_before_sets_no_mark() {
        let seen = "10:30:10,14".parse().unwrap();
        let opening = Opening { bound: true, ..OPENING };
        let after = to(cursor().advance(&seen, 31, opening, None, None));
        assert_eq!((after.mark, after.mark_xid), (60, 22));
    }

    #[test]
    fn an_early_end_among_late_rows_keeps_the_snapshot() {
        let seen: Snapshot = "30:30:".parse().unwrap();
        let partly = cursor().advance(&seen, 31, OPENING, Some(12), Some(33));
        assert_eq!(partly, Advance::Partly { target: seen.clone(), reached: 12 });
        assert_eq!(cursor().advance(&seen, 31, OPENING, None, Some(33)), Advance::Nothing);
        let all_late = to(cursor().advance(&seen, 31, OPENING, Some(33), Some(51)));
        assert_eq!((all_late.position, all_late.target), (50, None));
    }
}
