use crate::batch::Unavailable;

/// After so many probes of the same event an event of another key is tried.
const PROBES: u32 = 5;

/// The other side is down, as the handler of one event says. One event at a time is sent as a probe; where that event alone is refused
/// for long, it is tried whether it is the event.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) partition: i16,
    suspect: Unavailable,
    /// Probes of the suspect that failed.
    probes: u32,
    /// Its partition holds no event of another key.
    alone: bool,
    /// An event of another partition has gone through: where the suspect is refused once more, it is the cause.
    pub(crate) proven: bool,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The first event of the partition.
    First(i16),
    /// The suspect, and where it fails again, one of another key.
    Beside(i16, i64),
    /// An event of another partition than this.
    Elsewhere(i16),
}

impl Outage {
    pub(crate) fn new(partition: i16, suspect: Unavailable) -> Self {
        Self { partition, suspect, probes: 0, alone: false, proven: false }
    }

    /// What the suspect answered.
    pub(crate) fn suspect(&self) -> &Unavailable {
        &self.suspect
    }

    pub(crate) fn next(&self) -> Probe {
        let long = self.probes >= PROBES || self.suspect.tried_before;
        match (long && !self.proven, self.alone) {
            (false, _) => Probe::First(self.partition),
            (true, false) => Probe::Beside(self.partition, self.suspect.sequence),
            (true, true) => Probe::Elsewhere(self.partition),
        }
    }

    /// A probe answered that the other side is unavailable.
    pub(crate) fn failed(&mut self, partition: i16, unavailable: Unavailable) {
        self.probes = self.probes.saturating_add(1);
        if partition != self.partition {
            // Another key's event says the same: the next round begins with the suspect again.
            self.alone = false;
            return;
        }
        if unavailable.sequence != self.suspect.sequence {
            (self.probes, self.proven) = (1, false);
        }
        self.alone = unavailable.alone;
        self.suspect = unavailable;
    }

    /// No event of another partition was there to be tried.
    pub(crate) fn nothing_elsewhere(&mut self) {
        self.alone = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(sequence: i64, alone: bool) -> Unavailable {
        Unavailable { sequence, error: "down".to_owned(), tried_before: false, alone }
    }

    fn after_probes(probes: u32) -> Outage {
        let mut outage = Outage::new(3, unavailable(7, false));
        for _ in 0..probes {
            assert_eq!(outage.next(), Probe::First(3));
            outage.failed(3, unavailable(7, false));
        }
        outage
    }

    #[test]
    fn five_probes_fail_before_another_key_is_tried() {
        assert_eq!(after_probes(4).next(), Probe::First(3));
        assert_eq!(after_probes(5).next(), Probe::Beside(3, 7));
    }

    #[test]
    fn a_suspect_without_neighbours_is_compared_with_another_partition() {
        let mut outage = after_probes(5);
        outage.failed(3, unavailable(7, true));
        assert_eq!(outage.next(), Probe::Elsewhere(3));
        outage.failed(4, unavailable(9, false));
        assert_eq!(outage.next(), Probe::Beside(3, 7), "it may be through by now");
    }

    #[test]
    fn the_suspect_is_asked_once_more_when_another_partition_went_through() {
        let mut outage = after_probes(5);
        outage.failed(3, unavailable(7, true));
        outage.proven = true;
        assert_eq!(outage.next(), Probe::First(3));
        outage.failed(3, unavailable(6, false));
        assert!(!outage.proven, "that was another");
    }

    #[test]
    fn another_suspect_is_probed_from_the_beginning() {
        let mut outage = after_probes(4);
        outage.failed(3, unavailable(8, false));
        assert_eq!(outage.probes, 1);
    }

    #[test]
    fn one_that_failed_before_is_doubted_at_once() {
        let outage = Outage::new(3, Unavailable { tried_before: true, ..unavailable(7, false) });
        assert_eq!(outage.next(), Probe::Beside(3, 7));
    }
}
