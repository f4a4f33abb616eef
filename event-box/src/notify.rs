use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const INTERVAL: u64 = 5_000_000;
const BURST: u64 = 20;

/// How an emit is announced, if it is: a token bucket for the process, 200 a second and bursts of 20, because a NOTIFY in every commit
/// serialises commits. The last token's notification says that more may follow: what then is not announced is found by a dense poll.
///
/// Kept as one number by the generic cell rate algorithm (ITU-T I.371): the time at which the bucket would be full again.
pub(crate) fn announcement() -> Option<Announcement> {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    static FULL_AT: AtomicU64 = AtomicU64::new(0);
    take(&FULL_AT, START.elapsed().as_nanos() as u64)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// The next emit can be announced too.
    One,
    /// The next emit may be too early for that.
    LastForNow,
}

impl Announcement {
    /// What a notification says that stands for several events.
    pub(crate) fn of_several(self, topic: &str) -> String {
        format!("*{} {topic}", self.mark())
    }

    /// What a notification says after the partition.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::One => "",
            Self::LastForNow => "+",
        }
    }
}

fn take(full_at: &AtomicU64, now: u64) -> Option<Announcement> {
    let allows = |full_at: u64| full_at.max(now) - now <= (BURST - 1) * INTERVAL;
    let taken = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
        allows(full_at).then_some(full_at.max(now) + INTERVAL)
    });
    let left = allows(taken.ok()?.max(now) + INTERVAL);
    Some(if left { Announcement::One } else { Announcement::LastForNow })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_each_interval() {
        let bucket = AtomicU64::new(0);
        let granted: Vec<_> = (0..100).filter_map(|_| take(&bucket, 1)).collect();
        assert_eq!(granted.len() as u64, BURST);
        let (last, earlier) = granted.split_last().unwrap();
        assert_eq!(*last, Announcement::LastForNow);
        assert!(earlier.iter().all(|announcement| *announcement == Announcement::One));
        assert_eq!(take(&bucket, INTERVAL / 2), None);
        assert_eq!(take(&bucket, 1 + INTERVAL), Some(Announcement::LastForNow));
        assert_eq!(take(&bucket, 1 + INTERVAL), None);
        let later = (0..100).filter_map(|_| take(&bucket, 1_000 * INTERVAL)).count();
        assert_eq!(later as u64, BURST);
    }
}
