use std::time::Duration;

use anyhow::{Context as _, Result};
use event_box::GroupError;
use fastrand::Rng;

use super::{
    groups::Kind,
    oracle,
    phase::{Phase, Phases, sleep, wait_for},
    puller,
    world::World,
};

/// Whatever may go, goes: once the groups are there that are owed the log from its beginning.
pub(super) async fn prune(world: &'static World, mut phases: Phases) -> Result<()> {
    let first = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Late | Kind::New)).map(Kind::group);
    let first: Vec<_> = first.chain([puller::GROUP]).collect();
    let there = "select count(*) from event_box.consumer_groups where name = any($1)";
    // A fault in between is no answer.
    while sqlx::query_scalar::<_, i64>(there).bind(&first).fetch_one(&world.pool).await.unwrap_or(0)
        < first.len() as i64
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while wait_for(&mut phases, &[Phase::Busy, Phase::Upkeep]).await < Phase::Settling {
        tolerated(world, event_box::prune(&world.pool, Duration::ZERO).await.context("prune"))?;
        sleep(&mut phases, Duration::from_millis(5), &[Phase::Settling]).await;
    }
    Ok(())
}

/// One group goes back again and again, into the middle of passes too, and must be given again all that is left of the log from there.
pub(super) async fn replay(world: &'static World, mut rng: Rng, mut phases: Phases) -> Result<()> {
    let group = world.log.group(Kind::Replayed.group());
    loop {
        // So long at most, and by so many events back.
        let (pause, back) = match wait_for(&mut phases, &[Phase::Busy, Phase::Upkeep]).await {
            Phase::Busy => (500, [3, 30, 100, 400]),
            // Late events lie just before the point, and are not brought back by what comes after.
            Phase::Upkeep => (60, [1, 1, 2, 3]),
            _ => return Ok(()),
        };
        sleep(&mut phases, Duration::from_millis(rng.u64(5..pause)), &[Phase::Calm, Phase::Settling]).await;
        let most = back[rng.usize(0..4)];
        let back = rng.i64(0..most);
        let replayed = async {
            let last = world.number("select coalesce(max(sequence), 0) from emitted").await?;
            let from = (last + 1 - back).max(1);
            match group.replay_from(from).await {
                Ok(_) => oracle::promise(world, Kind::Replayed, from).await,
                Err(error) => there(error),
            }
        };
        tolerated(world, replayed.await.context("replay"))?;
    }
}

/// One group is set forward to now again and again, and need not be given what was there before.
pub(super) async fn forward(world: &'static World, mut rng: Rng, mut phases: Phases) -> Result<()> {
    let group = world.log.group(Kind::Forwarded.group());
    while wait_for(&mut phases, &[Phase::Busy, Phase::Upkeep]).await < Phase::Settling {
        sleep(&mut phases, Duration::from_millis(rng.u64(20..300)), &[Phase::Calm, Phase::Settling]).await;
        let clear = rng.bool();
        let forwarded = async {
            match clear {
                false => group.forward_to_now().await,
                true => group.forward_and_clear_parked().await.map(drop),
            }
        };
        let outcome = forwarded.await.or_else(there);
        // Also where the answer was lost: it may have been done.
        while let Err(error) = oracle::owes_from_now_on(world, Kind::Forwarded).await {
            tolerated(world, Err::<(), _>(error))?;
        }
        tolerated(world, outcome.context("forward"))?;
    }
    Ok(())
}

/// Backends are ended at random, and the whole server at times, where faults are asked for.
pub(super) async fn terminate(world: &'static World, mut rng: Rng, mut phases: Phases) -> Result<()> {
    if !world.options.faults {
        return Ok(());
    }
    while wait_for(&mut phases, &[Phase::Busy]).await < Phase::Settling {
        sleep(&mut phases, Duration::from_millis(rng.u64(300..2_000)), &[Phase::Settling]).await;
        if *phases.borrow() >= Phase::Settling {
            return Ok(());
        }
        world.fault();
        if rng.u8(..) < 12 {
            world.server.kill()?;
            world.server.restart()?;
            continue;
        }
        let any = "select count(pg_terminate_backend(pid)) from (
                       select pid from pg_stat_activity
                       where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
                       order by random() limit 1
                   ) as victim";
        let _ = world.number(any).await;
    }
    Ok(())
}

/// At first the group does not exist yet.
fn there(error: GroupError) -> Result<()> {
    if matches!(error, GroupError::NoSuchGroup { .. }) { Ok(()) } else { Err(error.into()) }
}

fn tolerated<T>(world: &World, result: Result<T>) -> Result<()> {
    match result {
        Err(error) if !world.options.faults => Err(error),
        _ => Ok(()),
    }
}
