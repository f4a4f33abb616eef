//! The steps between claim and commit at which the tests of event-box let something go wrong. Not for users: no part of the public surface.

use std::sync::OnceLock;

use futures_core::future::BoxFuture;

/// What a process does where it reaches a point: goes on, fails as if its connection were lost, waits, or ends.
pub type Hook = Box<dyn Fn(Point) -> BoxFuture<'static, Result<(), sqlx::Error>> + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident,)*) => {
        /// A step. What is reached in a transaction is undone where the process ends there; what comes after a commit stays.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All that there are, in the order of a batch.
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];
        }
    };
}

points! {
    /// A batch's transaction has begun.
    Begun,
    /// A partition is claimed.
    Claimed,
    /// A page of it is read.
    Read,
    /// After a death: an event that goes alone is recorded as begun.
    Started,
    /// Before the handlers of an event, or of a run.
    Handling,
    /// After them, before what they wrote is kept.
    HandlingEnded,
    /// All-or-nothing: the batch is undone to its beginning, to be run again.
    Undone,
    /// Before events are parked.
    Parking,
    /// After that.
    Parked,
    /// A retry that went through is cleared.
    Cleared,
    /// Those behind it are due.
    Promoted,
    /// All events are dealt with.
    Handled,
    /// The cursor is advanced.
    Advanced,
    /// Before the commit.
    Committing,
    /// After it, before the worker has heard.
    Committed,
    /// A concurrent round's transaction has begun.
    RoundBegun,
    /// It has claimed a partition.
    RoundClaimed,
    /// It has read it.
    RoundRead,
    /// Before a concurrent handler.
    ChainHandling,
    /// After it.
    ChainHandled,
    /// The round's claims have said that they live.
    RoundKeptAlive,
    /// All its handlers are through.
    RoundHandled,
    /// A cursor of it is advanced.
    RoundAdvanced,
    /// Before its commit.
    RoundCommitting,
    /// After it.
    RoundCommitted,
    /// Before delayed events are moved, with the right to move them. Leaving the one table and joining the other are one statement.
    Moving,
    /// They are moved.
    Moved,
    /// And that is committed.
    MoveCommitted,
    /// A pull knows which partitions have work.
    PullLooked,
    /// It has events to hand out.
    Pulled,
    /// An event that was pulled has failed, and is parked.
    PullFailed,
}

/// Has every point do this in this process, from now on: to be called once.
pub fn install(hook: Hook) {
    assert!(HOOK.set(hook).is_ok(), "the failpoints of this process are set already");
}

pub(crate) async fn reach(point: Point) -> Result<(), sqlx::Error> {
    match HOOK.get() {
        Some(hook) => hook(point).await,
        None => Ok(()),
    }
}
