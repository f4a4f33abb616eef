use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everything at once.
    Busy,
    /// Two slow emitters alone, so that transaction ids stay beyond every snapshot's end.
    Calm,
    /// The same, while the log is pruned and groups are replayed and set forward all the time.
    Upkeep,
    /// One slow emitter and the puller, no other group.
    Pulling,
    /// Emitters have ended, nothing is disturbed any more: all must arrive by itself.
    Settling,
    /// Everybody goes home.
    Over,
}

pub(super) type Phases = watch::Receiver<Phase>;

/// Goes through the phases again and again, until the time is up; the last word is the upkeep's.
pub(super) struct Clock {
    phase: watch::Sender<Phase>,
}

impl Clock {
    pub(super) fn start(time: Duration, mut rng: Rng) -> Self {
        let phase = watch::Sender::new(Phase::Busy);
        let clock = Self { phase: phase.clone() };
        tokio::spawn(async move {
            let turns = async {
                for next in [Phase::Busy, Phase::Calm, Phase::Upkeep, Phase::Pulling].into_iter().cycle() {
                    phase.send_replace(next);
                    tokio::time::sleep(Duration::from_millis(rng.u64(1_500..3_500))).await;
                }
            };
            let _ = tokio::time::timeout(time, turns).await;
            phase.send_replace(Phase::Upkeep);
            tokio::time::sleep(Duration::from_secs(3)).await;
            phase.send_replace(Phase::Settling);
        });
        clock
    }

    pub(super) fn watch(&self) -> Phases {
        self.phase.subscribe()
    }

    /// Whatever was to be emitted is.
    pub(super) fn emitted(&self) {
        self.phase.send_replace(Phase::Settling);
    }

    pub(super) fn end(&self) {
        self.phase.send_replace(Phase::Over);
    }
}

/// Sleeps, and answers with the phase it is then; less long where the phase changes to one of these.
pub(super) async fn sleep(phases: &mut Phases, time: Duration, unless: &[Phase]) -> Phase {
    let changed = phases.wait_for(|phase| unless.contains(phase));
    let _ = tokio::time::timeout(time, changed).await;
    *phases.borrow()
}

/// Waits for one of these, or one that comes after the emitting.
pub(super) async fn wait_for(phases: &mut Phases, wanted: &[Phase]) -> Phase {
    let wanted = phases.wait_for(|phase| wanted.contains(phase) || *phase >= Phase::Settling).await;
    wanted.map_or(Phase::Over, |phase| *phase)
}
