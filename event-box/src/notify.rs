use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const INTERVAL: u64 = 5_000_000;
const BURST: u64 = 20;

/// Whether this emit may carry a NOTIFY: a token bucket for the process, 200 a second and bursts of 20, because a NOTIFY in every commit
/// serialises commits. What is not announced is found by the poll that an announcement a moment ago made dense.
///
/// Kept as one number by the generic cell rate algorithm (ITU-T I.371): the time at which the bucket would be full again.
pub(crate) fn may_notify() -> bool {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    static FULL_AT: AtomicU64 = AtomicU64::new(0);
    take(&FULL_AT, START.elapsed().as_nanos() as u64)
}

fn take(full_at: &AtomicU64, now: u64) -> bool {
    full_at
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = full_at.max(now);
            (full_at - now <= (BURST - 1) * INTERVAL).then_some(full_at + INTERVAL)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_each_interval() {
        let bucket = AtomicU64::new(0);
        let granted = (0..100).filter(|_| take(&bucket, 1)).count();
        assert_eq!(granted as u64, BURST);
        assert!(!take(&bucket, INTERVAL / 2));
        assert!(take(&bucket, 1 + INTERVAL));
        assert!(!take(&bucket, 1 + INTERVAL));
        let later = (0..100).filter(|_| take(&bucket, 1_000 * INTERVAL)).count();
        assert_eq!(later as u64, BURST);
    }
}
