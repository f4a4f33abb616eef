//! Processes are killed with SIGKILL at random moments, and replaced.

use std::time::Duration;

use event_box_tests::{TestLog, emit_next};
use fastrand::Rng;
use sqlx::PgPool;
use tokio::{task::JoinSet, time::Instant};

use super::{book, member::Member, mode::Mode};

const KEYS: u8 = 24;

/// Transactions of one to three keys, some of them slow, some rolled back, until that time.
async fn emit(pool: PgPool, mut rng: Rng, until: Instant) {
    while Instant::now() < until {
        let mut tx = pool.begin().await.unwrap();
        let mut keys: Vec<_> = (0..rng.usize(1..4)).map(|_| format!("k{:02}", rng.u8(0..KEYS))).collect();
        // Ascending, so that emitters do not deadlock.
        keys.sort();
        keys.dedup();
        for key in keys {
            emit_next(&mut tx, &key).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(if rng.u8(..) < 20 { rng.u64(10..60) } else { rng.u64(0..3) })).await;
        if rng.u8(..) < 20 {
            tx.rollback().await.unwrap()
        } else {
            tx.commit().await.unwrap()
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..20))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_every_mode_that_are_killed_again_and_again_lose_and_double_nothing() {
    let (log, mut rng) = (TestLog::empty().await, book::rng());
    book::open(&log.pool).await;
    let spawn = |mode: Mode, name: &str| Member::spawn(log.url(), &format!("{mode:?}"), name, mode, None);
    let mut members: Vec<_> =
        Mode::GROUPS.into_iter().flat_map(|mode| ["one", "two"].map(|name| (mode, name, spawn(mode, name)))).collect();
    let until = Instant::now() + book::time(10);
    let mut emitters = JoinSet::new();
    for _ in 0..4 {
        emitters.spawn(emit(log.pool.clone(), Rng::with_seed(rng.u64(..)), until));
    }
    let mut kills = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(rng.u64(50..400))).await;
        // Whoever was in hand alone at three deaths is a dead letter, as it should be: luck must not bring that about.
        if log.number("select count(*) from event_box.parked where deaths >= 2").await > 0 {
            continue;
        }
        let victim = rng.usize(0..members.len());
        let (mode, name, member) = &mut members[victim];
        member.kill();
        kills += 1;
        *member = spawn(*mode, name);
    }
    while let Some(emitted) = emitters.join_next().await {
        emitted.expect("no emitter fails");
    }
    for mode in Mode::GROUPS {
        let group = format!("{mode:?}");
        book::wait_until_settled(&log.pool, &group).await;
        book::assert_complete(&log.pool, &group, mode).await;
    }
    println!("{kills} kills, {} events", log.number("select sum(n)::bigint from counters").await);
    assert!(kills >= 5, "{kills}");
    for (mode, name, member) in members {
        member.terminate(&format!("{mode:?} {name}")).await;
    }
    log.close().await;
}
