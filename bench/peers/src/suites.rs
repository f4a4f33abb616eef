use std::sync::Arc;
use std::time::Instant;

use event_box::{BoxError, Consumer, Context};
use event_box_bench::{
    comparison::{Comparison, Line},
    counter::Counter,
    event::OrderPlaced,
    latency::{self, Arrivals, Percentiles, WARM_UP, measure},
    raw,
    stage::{Bench, Running, Stage},
    suites::emit::{emit_each, emit_many},
    turns::{in_turn, rate},
};

use crate::{
    peer::{Consuming, Opened, Peer, emit},
    sink::Sink,
};

/// Who takes part, the measure of all others first.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    Raw,
    EventBox,
    Peer(Peer),
}

const SIDES: [Side; 5] =
    [Side::Raw, Side::EventBox, Side::Peer(Peer::Obix), Side::Peer(Peer::Pgmq), Side::Peer(Peer::Graphile)];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::EventBox => "event-box",
            Self::Peer(peer) => peer.name(),
        }
    }
}

/// Of every side's figures, each beside raw's of the same repetition. event-box alone has a line to reach here.
fn beside_raw(what: &str, unit: &'static str, line: Line, figures: &[Vec<f64>]) -> Vec<Comparison> {
    let rows = SIDES.iter().zip(figures).skip(1);
    rows.map(|(side, ours)| {
        let line = matches!(side, Side::EventBox).then_some(line);
        Comparison::of(format!("{what}: {}; of raw", side.name()), line, unit, ours, &figures[0])
    })
    .collect()
}

async fn ignore(_: OrderPlaced, _: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(())
}

enum Listening {
    Nobody,
    EventBox(Running),
    Peer(Consuming),
}

/// One event a transaction, from 8 tasks; a consumer of each but raw is there and takes what comes.
pub async fn emit_one(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    const TASKS: usize = 8;
    let each = bench.sized(250, 1_000);
    let figures = in_turn(bench.repetitions, &SIDES, async |side| {
        let stage = bench.stage().await?;
        let (took, listening) = match side {
            Side::Raw => (raw::one_a_transaction(&stage.pool, TASKS, each).await?, Listening::Nobody),
            Side::EventBox => {
                let listening = Consumer::builder(&stage.pool, "listening").on(ignore).workers(2).build()?;
                let listening = Listening::EventBox(Running::start(listening));
                stage.wait_for_groups(1).await?;
                (emit_each(&stage, TASKS, each).await?, listening)
            }
            Side::Peer(peer) => {
                let peer = Arc::new(peer.open(stage.url()).await?);
                let listening = Listening::Peer(peer.consume(Sink::new(|_| ()), false).await?);
                (emit(&peer, TASKS, each, 1).await?, listening)
            }
        };
        match listening {
            Listening::Nobody => {}
            Listening::EventBox(running) => running.stop().await?,
            Listening::Peer(consuming) => consuming.stop().await?,
        }
        stage.close().await?;
        Ok(rate(TASKS * each, took))
    })
    .await?;
    Ok(beside_raw("emit, one a transaction, 8 tasks, a consumer there", "/s", Line::AtLeast(0.85), &figures))
}

/// A thousand a statement, from 4 tasks.
pub async fn emit_all(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    const TASKS: usize = 4;
    let statements = bench.sized(5, 20);
    let figures = in_turn(bench.repetitions, &SIDES, async |side| {
        let stage = bench.stage().await?;
        let took = match side {
            Side::Raw => raw::unnest(&stage.pool, TASKS, statements, 1_000).await?,
            Side::EventBox => emit_many(&stage, TASKS, statements, 1_000).await?,
            Side::Peer(peer) => emit(&Arc::new(peer.open(stage.url()).await?), TASKS, statements, 1_000).await?,
        };
        stage.close().await?;
        Ok(rate(TASKS * statements * 1_000, took))
    })
    .await?;
    Ok(beside_raw("emit of 1,000 a statement, 4 tasks", "/s", Line::AtLeast(0.75), &figures))
}

/// All that is there, by one worker each (graphile_worker: 4, as it takes one job at a time), the handler does nothing.
pub async fn drain(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    let events = bench.sized(20_000, 100_000);
    let figures = in_turn(bench.repetitions, &SIDES, async |side| {
        let stage = bench.stage().await?;
        let rate = match side {
            Side::Raw => {
                stage.fill(events, 10_000).await?;
                rate(events, raw::keyset(&stage.pool).await?)
            }
            Side::EventBox => {
                stage.fill(events, 10_000).await?;
                let counter = Counter::new(events);
                stage.drain(stage.no_op("drain", 1, 1_000, &counter)?, "drain", 1_000, &counter).await?
            }
            Side::Peer(peer) => drain_peer(&stage, peer.open(stage.url()).await?, events).await?,
        };
        stage.close().await?;
        Ok(rate)
    })
    .await?;
    Ok(beside_raw("drain, no-op", "/s", Line::AtLeast(0.8), &figures))
}

async fn drain_peer(stage: &Stage, peer: Opened, events: usize) -> anyhow::Result<f64> {
    let all: Vec<_> = (0..events as i64).collect();
    for orders in all.chunks(1_000) {
        peer.emit(orders).await?;
    }
    sqlx::query("vacuum analyze").execute(&stage.pool).await?;
    let counter = Counter::new(events);
    let counted = counter.clone();
    let started = Instant::now();
    let consuming = peer
        .consume(
            Sink::new(move |_| {
                counted.count();
            }),
            false,
        )
        .await?;
    counter.done().await;
    let took = started.elapsed();
    consuming.stop().await?;
    Ok(rate(events, took))
}

/// From the commit's return to the handler, in two processes, at 100 events a second, even arrivals.
pub async fn latency(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    let events = WARM_UP + bench.sized(300, 1_500);
    let runs = in_turn(bench.repetitions, &SIDES, async |side| {
        let stage = bench.stage().await?;
        let run = between(&stage, side, events).await?;
        stage.close().await?;
        Ok(run)
    })
    .await?;
    let column = |figure: fn(&Percentiles) -> f64| {
        runs.iter().map(|runs| runs.iter().map(figure).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let what = "latency at 100/s, even arrivals";
    let mut rows = beside_raw(&format!("{what}, p50"), "ms", Line::AtMost(2.5), &column(|run| run.p50));
    rows.extend(beside_raw(&format!("{what}, p99"), "ms", Line::AtMost(3.0), &column(|run| run.p99)));
    Ok(rows)
}

async fn between(stage: &Stage, side: Side, events: usize) -> anyhow::Result<Percentiles> {
    let (kind, name) = match side {
        Side::Raw => ("child", latency::Side::Raw.name()),
        Side::EventBox => ("child", latency::Side::EventBox.name()),
        Side::Peer(peer) => ("peer", peer.value()),
    };
    let arguments = |of: &str| {
        let fixed = [kind, of, "--url", stage.url(), "--side", name, "--events"];
        let mut arguments: Vec<_> = fixed.map(str::to_owned).to_vec();
        arguments.push(events.to_string());
        arguments
    };
    let mut emitter = arguments("emit");
    emitter.extend(["--arrivals".to_owned(), Arrivals::Even.name().to_owned()]);
    let probe = async || match side {
        Side::Raw => latency::emit(&stage.pool, latency::Side::Raw, 0).await,
        Side::EventBox => latency::emit(&stage.pool, latency::Side::EventBox, 0).await,
        Side::Peer(peer) => peer.open(stage.url()).await?.emit(&[0]).await,
    };
    measure(arguments("consume"), emitter, probe).await
}
