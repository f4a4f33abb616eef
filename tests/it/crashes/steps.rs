//! Every step between claim and commit is interrupted, in every way, in a process of its own.

use std::time::Duration;

use event_box::{
    Outbox,
    failpoints::Point::{self, Claimed, RoundKeptAlive, Started},
};
use event_box_tests::{Counted, TestLog, emit_next};
use sqlx::PgPool;

use super::{
    book,
    member::{Action, Member},
    mode::Mode,
};

/// Five more events of each key, each in a transaction of its own.
async fn emit(pool: &PgPool, mode: Mode, keys: &[&str]) {
    for key in keys.iter().cycle().take(5 * keys.len()) {
        let mut tx = pool.begin().await.unwrap();
        if mode == Mode::Delayed {
            let n = sqlx::query_scalar(
                "insert into counters values ($1, 1) on conflict (key) do update set n = counters.n + 1 returning n",
            );
            let event = Counted { key: (*key).to_owned(), n: n.bind(key).fetch_one(&mut *tx).await.unwrap() };
            Outbox::new().emit(&mut *tx, &event).delay(Duration::from_millis(1)).await.unwrap();
        } else {
            emit_next(&mut tx, key).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
}

/// The group goes on by itself, and has seen all, as often as it should.
async fn interrupt(log: &TestLog, mode: Mode, point: Point, action: Action) {
    let what = format!("{mode:?} {point:?} {action:?}");
    // Also what the server knows its connections by.
    let group = format!("{mode:?}-{point:?}");
    emit(&log.pool, mode, &["a", "b", "c"]).await;
    if point == RoundKeptAlive {
        emit_next(&mut log.pool.acquire().await.unwrap(), "slow").await.unwrap();
    }
    if point == Started {
        // Events go alone after a death.
        let mut first = Member::spawn(log.url(), &group, "first", mode, Some((Claimed, Action::Abort)));
        first.reaches(&what).await;
        first.ends(&what).await;
    }
    let mut member = Member::spawn(log.url(), &group, "interrupted", mode, Some((point, action)));
    member.reaches(&what).await;
    match action {
        Action::Fail => {}
        // The poll, which moves them, begins anew.
        Action::Panic if mode == Mode::Delayed => {}
        Action::Stall => {
            let ended = sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = $1",
            );
            assert!(ended.bind(&group).execute(&log.pool).await.unwrap().rows_affected() > 0, "{what}");
            member.release();
        }
        Action::Panic | Action::Abort => {
            assert!(!member.ends(&what).await.success(), "{what}");
            member = Member::spawn(log.url(), &group, "next", mode, None);
        }
    }
    emit(&log.pool, mode, &["a", "d"]).await;
    book::wait_until_settled(&log.pool, &group).await;
    book::assert_complete(&log.pool, &group, mode).await;
    member.terminate(&what).await;
}

async fn interrupt_every_step(mode: Mode, action: Action) {
    let log = TestLog::empty().await;
    book::open(&log.pool).await;
    for point in mode.points() {
        interrupt(&log, mode, *point, action).await;
    }
    log.close().await;
}

/// Each way by itself, side by side.
async fn in_every_way(mode: Mode) {
    tokio::join!(
        interrupt_every_step(mode, Action::Fail),
        interrupt_every_step(mode, Action::Stall),
        interrupt_every_step(mode, Action::Panic),
        interrupt_every_step(mode, Action::Abort),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transactional_group_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::Transactional).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_all_or_nothing_group_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::AllOrNothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_handler_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::Batch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_group_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::Concurrent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::Pull).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_delayed_events_outlives_an_interruption_at_every_step() {
    in_every_way(Mode::Delayed).await;
}
