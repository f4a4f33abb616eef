use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;

/// What becomes of something that a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mishap {
    /// It comes later.
    Late,
    /// The connection is cut before it comes.
    Unheard,
    /// It comes in half, stalls, and the connection is cut.
    Torn,
    /// The server does it; the connection is cut before the client hears that.
    Unanswered,
}

const ALL: [Mishap; 4] = [Mishap::Late, Mishap::Unheard, Mishap::Torn, Mishap::Unanswered];

/// Mishaps at random moments, on commits and on other statements.
#[derive(Debug)]
pub struct Mischief(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    commits: Course,
    others: Course,
}

/// One kind of message: it is a mishap's turn after a few of them.
#[derive(Debug, Default)]
struct Course {
    until_next: usize,
    turns: usize,
    times: BTreeMap<Mishap, usize>,
}

impl Course {
    fn draw(&mut self, rng: &mut Rng, about: usize) -> Option<Mishap> {
        self.until_next = self.until_next.checked_sub(1).unwrap_or_else(|| rng.usize(0..2 * about));
        if self.until_next > 0 {
            return None;
        }
        self.turns += 1;
        let mishap = ALL[self.turns % ALL.len()];
        *self.times.entry(mishap).or_default() += 1;
        Some(mishap)
    }

    fn fewest(&self) -> usize {
        ALL.iter().map(|mishap| self.times.get(mishap).copied().unwrap_or_default()).min().unwrap_or_default()
    }
}

impl Mischief {
    /// Drawn from this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(State { rng: Rng::with_seed(seed), commits: Course::default(), others: Course::default() }))
    }

    /// How often the rarest mishap has befallen a commit, and another statement.
    pub fn fewest(&self) -> (usize, usize) {
        let state = self.state();
        (state.commits.fewest(), state.others.fewest())
    }

    pub(crate) fn draw(&self, message: &[u8]) -> Option<(Mishap, Duration)> {
        let State { rng, commits, others } = &mut *self.state();
        let commits_now = message.windows(6).any(|part| part == b"COMMIT");
        let mishap = if commits_now { commits.draw(rng, 12) } else { others.draw(rng, 100) }?;
        Some((mishap, Duration::from_millis(rng.u64(0..300))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
