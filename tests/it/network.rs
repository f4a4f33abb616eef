mod site;

use std::time::{Duration, Instant};

use event_box::{BoxError, Consumer, Context, Event, Outbox};
use event_box_tests::{Counted, Logged, Running, Seen, Way};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};

use self::site::Site;

const TROUBLE: &str = "events cannot be delivered, trying on";
const OVER: &str = "events are delivered again";
const UNPOLLED: &str = "the event log cannot be polled, trying on";
const POLLED: &str = "the event log is polled again";
/// Within which a partition that a vanished worker held must be free: the server's longest time-out is 45 s.
const ABOUT_A_MINUTE: Duration = Duration::from_secs(75);

async fn note(event: Counted, cx: &mut Context<'_, &'static str>) -> Result<(), BoxError> {
    Ok(Seen::note(cx.state(), &event, cx).await?)
}

fn start(pool: &PgPool, member: &'static str) -> Running {
    // Without the first pruning, whose lock would be held until the server notices.
    let builder = Consumer::builder(pool, "g").state(member).on(note).retention(None);
    Running::start(builder.handler_timeout(Duration::from_secs(1)).build().unwrap())
}

/// Nothing runs, and nothing is held: another goes on at once, the one that was cut off says so and comes back.
#[tokio::test]
async fn a_network_that_stalls_while_idle_is_noticed_and_comes_back() {
    let (logged, site) = (Logged::here(), Site::new().await);
    let running = start(&site.remote, "remote");
    site.emit(1..=3).await;
    site.wait_for(3).await;
    site.proxy.stall();
    let stalled = Instant::now();
    let other = start(&site.pool, "other");
    site.emit(4..=6).await;
    site.wait_for(6).await;
    println!("another went on after {:?}", stalled.elapsed());
    other.stop().await.unwrap();
    logged.wait_for(UNPOLLED, 1).await;
    println!("noticed after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < Duration::from_secs(30), "{:?}", stalled.elapsed());
    site.proxy.resume();
    let back = Instant::now();
    site.emit(7..=9).await;
    site.wait_for(9).await;
    logged.wait_for(POLLED, 1).await;
    println!("went on {:?} after the network was back", back.elapsed());
    running.stop().await.unwrap();
    assert_eq!((logged.times(UNPOLLED), logged.times(POLLED)), (1, 1), "{:#?}", logged.said(""));
    site.assert_each_once_in_order(9).await;
    site.close().await;
}

struct Gate {
    started: mpsc::UnboundedSender<i64>,
    open: Semaphore,
}

/// Reports that it began, and goes on when it is let.
async fn gated(event: Counted, cx: &mut Context<'_, std::sync::Arc<Gate>>) -> Result<(), BoxError> {
    Seen::note("remote", &event, cx).await?;
    cx.state().started.send(event.n)?;
    cx.state().open.acquire().await?.forget();
    Ok(())
}

/// The worker's transaction stands idle in the server, which ends it after the handler's time-out and 15 seconds.
async fn assert_a_vanished_worker_frees_its_partition(way: Option<Way>) {
    let (logged, site) = (Logged::here(), Site::new().await);
    let (started, mut reports) = mpsc::unbounded_channel();
    let gate = std::sync::Arc::new(Gate { started, open: Semaphore::new(0) });
    let consumer = Consumer::builder(&site.remote, "g").state(gate.clone()).on(gated);
    let running = Running::start(consumer.handler_timeout(Duration::from_secs(3)).build().unwrap());
    site.emit(1..=3).await;
    assert_eq!(reports.recv().await, Some(1));
    match way {
        None => site.proxy.stall(),
        Some(way) => site.proxy.stall_one_way(way),
    }
    let stalled = Instant::now();
    gate.open.add_permits(100);
    let other = start(&site.pool, "other");
    site.wait_for(3).await;
    println!("its partition was free after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < ABOUT_A_MINUTE, "{:?}", stalled.elapsed());
    logged.wait_for(TROUBLE, 1).await;
    println!("it gave up after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < ABOUT_A_MINUTE, "{:?}", stalled.elapsed());
    other.stop().await.unwrap();
    site.proxy.resume();
    let back = Instant::now();
    site.emit(4..=6).await;
    site.wait_for(6).await;
    println!("went on {:?} after the network was back", back.elapsed());
    logged.wait_for(OVER, 1).await;
    assert_eq!(logged.times(TROUBLE), 1, "{:#?}", logged.said(""));
    running.stop().await.unwrap();
    site.assert_each_once_in_order(6).await;
    site.close().await;
}

#[tokio::test]
async fn a_worker_that_vanishes_between_two_statements_frees_its_partition() {
    assert_a_vanished_worker_frees_its_partition(None).await;
}

#[tokio::test]
async fn a_worker_that_is_no_longer_heard_frees_its_partition() {
    assert_a_vanished_worker_frees_its_partition(Some(Way::ToServer)).await;
}

#[tokio::test]
async fn a_worker_that_no_longer_hears_frees_its_partition() {
    assert_a_vanished_worker_frees_its_partition(Some(Way::ToClient)).await;
}

/// Who starts, prunes or replays takes turns under one lock: a holder that vanished keeps nobody out for ever.
#[tokio::test]
async fn a_consumer_that_vanishes_while_it_starts_keeps_nobody_from_starting() {
    let site = Site::new().await;
    let mut turn = site.pool.begin().await.unwrap();
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtextextended('event_box.maintenance', 0))")
        .execute(&mut *turn)
        .await
        .unwrap();
    let running = start(&site.remote, "remote");
    let waiting = "select count(*) from pg_stat_activity where application_name = 'remote' and wait_event = 'advisory'";
    while site.number(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    site.proxy.stall();
    let stalled = Instant::now();
    turn.commit().await.unwrap();
    let other = start(&site.pool, "other");
    site.emit(1..=3).await;
    site.wait_for(3).await;
    println!("another started after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < ABOUT_A_MINUTE, "{:?}", stalled.elapsed());
    other.stop().await.unwrap();
    site.proxy.resume();
    site.emit(4..=6).await;
    site.wait_for(6).await;
    running.stop().await.unwrap();
    site.assert_each_once_in_order(6).await;
    site.close().await;
}

/// The server commits, and its answer is lost: what was handled is not handled again.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let (logged, site) = (Logged::here(), Site::new().await);
    // Before the commit, so that nothing but its answer is lost.
    let sql =
        "create function stall() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(1); return null; end $$;
               create constraint trigger stall after insert on seen deferrable initially deferred
                   for each row when (new.n = 3) execute function stall()";
    sqlx::raw_sql(sql).execute(&site.pool).await.unwrap();
    let running = start(&site.remote, "remote");
    site.emit(1..=2).await;
    site.wait_for(2).await;
    let mut gate = site.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(1)").execute(&mut *gate).await.unwrap();
    site.emit([3]).await;
    site.wait_until("select count(*) from pg_stat_activity where wait_event = 'advisory'").await;
    site.proxy.stall_one_way(Way::ToClient);
    gate.commit().await.unwrap();
    site.wait_for(3).await;
    logged.wait_for(TROUBLE, 1).await;
    site.proxy.resume();
    site.emit(4..=6).await;
    site.wait_for(6).await;
    running.stop().await.unwrap();
    site.assert_each_once_in_order(6).await;
    site.close().await;
}

/// A payload that fills what the kernels between buffer.
#[derive(Serialize, Deserialize, Event)]
#[event(topic = "test.large", partition_key = "key")]
struct Large {
    key: String,
    n: i64,
    text: String,
}

async fn note_large(event: Large, cx: &mut Context<'_, &'static str>) -> Result<(), BoxError> {
    let Large { key, n, .. } = event;
    Ok(Seen::note(cx.state(), &Counted { key, n }, cx).await?)
}

fn start_large(pool: &PgPool, member: &'static str) -> Running {
    let builder = Consumer::builder(pool, "g").state(member).on(note_large).batch_bytes(64 << 20).retention(None);
    Running::start(builder.handler_timeout(Duration::from_secs(1)).build().unwrap())
}

/// The server stands in the middle of a batch that nobody reads: no time-out of a statement or of an idle transaction ends that.
#[tokio::test]
async fn a_worker_that_vanishes_in_the_middle_of_a_large_batch_frees_its_partition() {
    let (logged, site) = (Logged::here(), Site::new().await);
    let large = |n| Large { key: "k".to_owned(), n, text: "x".repeat(1 << 20) };
    let mut tx = site.pool.begin().await.unwrap();
    for n in 1..=40 {
        Outbox::new().max_payload_bytes(2 << 20).emit(&mut *tx, &large(n)).await.unwrap();
    }
    tx.commit().await.unwrap();
    site.proxy.stall_after(2 << 20);
    let running = start_large(&site.remote, "remote");
    site.proxy.stalled().await;
    let stalled = Instant::now();
    // The server is sending, not waiting.
    site.wait_until(
        "select count(*) from pg_stat_activity where application_name = 'remote' and wait_event = 'ClientWrite'",
    )
    .await;
    let other = start_large(&site.pool, "other");
    site.wait_for(1).await;
    println!("its partition was free after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < ABOUT_A_MINUTE, "{:?}", stalled.elapsed());
    assert!(stalled.elapsed() > Duration::from_secs(5), "it was never held");
    site.wait_for(40).await;
    logged.wait_for(TROUBLE, 1).await;
    other.stop().await.unwrap();
    site.proxy.resume();
    let back = Instant::now();
    for n in 41..=43 {
        Outbox::new().max_payload_bytes(2 << 20).emit(&site.pool, &large(n)).await.unwrap();
    }
    site.wait_for(43).await;
    println!("went on {:?} after the network was back", back.elapsed());
    running.stop().await.unwrap();
    assert_eq!(site.number("select count(*) from seen where member = 'remote'").await, 3);
    site.assert_each_once_in_order(43).await;
    site.close().await;
}

/// An address that moved: what was connected hears nothing ever again, new connections work. Again and again, with a pool that has no
/// connection to spare.
#[tokio::test]
async fn connections_that_are_dead_for_ever_are_replaced_and_given_up() {
    let (logged, site) = (Logged::here(), Site::new().await);
    let running = start(&site.remote, "remote");
    site.emit([1]).await;
    site.wait_for(1).await;
    for n in 2..=6 {
        site.proxy.stall_existing();
        let stalled = Instant::now();
        site.emit([n]).await;
        site.wait_for(n).await;
        println!("{n}: went on after {:?}", stalled.elapsed());
        assert!(stalled.elapsed() < ABOUT_A_MINUTE, "{:?}", stalled.elapsed());
        logged.wait_for(POLLED, n as usize - 1).await;
    }
    // All but the poll's and what may be on its way back are to be had. Upkeep, where it was in hand, waits for a minute.
    let (mut held, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(80));
    while held.len() < 5 {
        held.extend(site.remote.acquire().await.ok());
        assert!(Instant::now() < deadline, "only {} of 5 connections can be had", held.len());
    }
    drop(held);
    running.stop().await.unwrap();
    site.assert_each_once_in_order(6).await;
    site.close().await;
}

/// The pool asks what is given back to it whether it is well, and may not wait for the answer for ever.
#[tokio::test]
async fn a_connection_that_dies_on_its_way_back_costs_the_pool_no_place() {
    let site = Site::new().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    // Once more than the pool has places.
    for _ in 0..8 {
        while let Err(error) = event_box::prune(&site.remote, Duration::from_secs(3_600)).await {
            assert!(Instant::now() < deadline, "{error}");
        }
        // Nothing was awaited since: the question is still to be asked.
        site.proxy.stall_existing();
    }
    site.close().await;
}

/// Resets, in the middle of whatever is on its way.
#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let (logged, site) = (Logged::here(), Site::new().await);
    let running = start(&site.remote, "remote");
    for round in 0..10 {
        site.emit(round * 100 + 1..=round * 100 + 50).await;
        site.proxy.cut();
        site.emit(round * 100 + 51..=round * 100 + 100).await;
        site.wait_for(round * 100 + 60).await;
        logged.wait_for(OVER, logged.times(TROUBLE)).await;
    }
    site.wait_for(1_000).await;
    running.stop().await.unwrap();
    site.assert_each_once_in_order(1_000).await;
    site.close().await;
}

/// Its transaction stands idle in the server in the middle of a move, and nobody else moves until the server ends it.
#[tokio::test]
async fn a_vanished_mover_lets_others_move_within_a_minute() {
    let site = Site::new().await;
    let slow = "create function public.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return new; end $$;
                create trigger slow before insert on event_box.events for each row execute function public.slow()";
    sqlx::raw_sql(slow).execute(&site.pool).await.unwrap();
    let running = start(&site.remote, "remote");
    // Due at once, so that one move takes them all.
    let mut tx = site.pool.begin().await.unwrap();
    for n in 1..=3 {
        let event = Counted { key: "k".to_owned(), n };
        Outbox::new().emit(&mut *tx, &event).delay(Duration::from_millis(1)).await.unwrap();
    }
    tx.commit().await.unwrap();
    site.wait_until(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'",
    )
    .await;
    site.proxy.stall();
    let (stalled, other) = (Instant::now(), start(&site.pool, "other"));
    site.wait_for(3).await;
    println!("others moved after {:?}", stalled.elapsed());
    assert!(
        stalled.elapsed() > Duration::from_secs(30) && stalled.elapsed() < ABOUT_A_MINUTE,
        "{:?}",
        stalled.elapsed()
    );
    site.proxy.resume();
    other.stop().await.unwrap();
    running.stop().await.unwrap();
    site.assert_each_once_in_order(3).await;
    assert_eq!(site.number("select count(*) from event_box.events").await, 3);
    site.close().await;
}
