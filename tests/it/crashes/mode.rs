use event_box::failpoints::Point::{self, *};

/// How a member handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Transactional,
    AllOrNothing,
    Batch,
    Concurrent,
    Pull,
    /// As transactional, of delayed events.
    Delayed,
}

impl Mode {
    /// Those that may be handled beside one another.
    pub(super) const GROUPS: [Self; 5] =
        [Self::Transactional, Self::AllOrNothing, Self::Batch, Self::Concurrent, Self::Pull];

    /// Every effect is there once.
    pub(super) fn is_exact(self) -> bool {
        self != Self::Concurrent
    }

    /// The steps that it comes by. Each step is one of some mode.
    pub(super) fn points(self) -> &'static [Point] {
        const BATCH: &[Point] = &[
            Begun,
            Claimed,
            Read,
            Started,
            Handling,
            HandlingEnded,
            Parking,
            Parked,
            Cleared,
            Promoted,
            Handled,
            Advanced,
            Committing,
            Committed,
        ];
        match self {
            Self::Transactional | Self::Batch => BATCH,
            // Beside what it shares with the transactional ones.
            Self::AllOrNothing => {
                &[Claimed, Read, Started, HandlingEnded, Undone, Parked, Handled, Advanced, Committed]
            }
            Self::Concurrent => &[
                RoundBegun,
                RoundClaimed,
                RoundRead,
                ChainHandling,
                ChainHandled,
                RoundKeptAlive,
                RoundHandled,
                Parking,
                Parked,
                Cleared,
                Promoted,
                RoundAdvanced,
                RoundCommitting,
                RoundCommitted,
            ],
            Self::Pull => &[
                PullLooked,
                Claimed,
                Read,
                Handling,
                HandlingEnded,
                Cleared,
                Promoted,
                Handled,
                Advanced,
                Pulled,
                Parking,
                Parked,
                PullFailed,
            ],
            Self::Delayed => &[Moving, Moved, MoveCommitted],
        }
    }
}

#[test]
fn every_step_is_one_of_some_mode() {
    let modes = Mode::GROUPS.into_iter().chain([Mode::Delayed]);
    let tried: std::collections::BTreeSet<_> = modes.flat_map(|mode| mode.points().iter().copied()).collect();
    assert_eq!(tried, Point::ALL.iter().copied().collect());
}
