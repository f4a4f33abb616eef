use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use event_box::{BoxError, Consumer, Context, EventBox, Outbox};
use sqlx::{Connection, PgPool};

use crate::{
    comparison::{Comparison, Line},
    event::OrderPlaced,
    stage::{Bench, Running, Stage},
    turns::{Side, paired, rate},
};

const EMITTERS: usize = 8;
const SAMPLE: Duration = Duration::from_millis(20);
/// A backlog of what is emitted in this time is none: events on their way.
const UNDER_WAY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Flow {
    emitted: AtomicUsize,
    handled: AtomicUsize,
    stop: AtomicBool,
}

/// Eight emitters at full speed, one event a transaction, while two workers consume; beside the same emitters alone.
pub(super) async fn live(bench: &Bench) -> anyhow::Result<Vec<Comparison>> {
    let time = Duration::from_millis(bench.sized(4_500, 15_000) as u64);
    let stage = bench.stage().await?;
    let (ours, alone) = paired(bench.repetitions, async |side| run(&stage, time, side == Side::Ours).await).await?;
    stage.close().await?;
    let column = |runs: &[Run], figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
    let end = column(&ours, |run| run.backlog_at_the_end);
    let third = column(&ours, |run| run.backlog_at_a_third);
    let (emit, emit_alone) = (column(&ours, |run| run.emitted), column(&alone, |run| run.emitted));
    let backlog = "live, 8 emitters and 2 workers: backlog at the end; of that at a third of the way";
    let emitting = "live, 8 emitters and 2 workers: emit; of emit alone";
    Ok(vec![
        Comparison::of(backlog, Line::AtMost(1.2), "events", &end, &third)
            .note("means over a tenth of the run; fewer than what is emitted in 50 ms count as that many, which are under way"),
        Comparison::of(emitting, Line::AtLeast(0.7), "/s", &emit, &emit_alone),
    ])
}

#[derive(Debug)]
struct Run {
    emitted: f64,
    backlog_at_a_third: f64,
    backlog_at_the_end: f64,
}

async fn run(stage: &Stage, time: Duration, consumed: bool) -> anyhow::Result<Run> {
    let flow = Arc::new(Flow::default());
    let running = match consumed {
        true => Some(Running::start(consumer(stage, &flow)?)),
        false => None,
    };
    if consumed {
        stage.wait_for_groups(1).await?;
    }
    let started = Instant::now();
    let emitters = (0..EMITTERS)
        .map(|emitter| tokio::spawn(emit(stage.pool.clone(), stage.outbox.clone(), emitter, flow.clone())))
        .collect::<Vec<_>>();
    let mut backlog = Vec::new();
    while started.elapsed() < time {
        tokio::time::sleep(SAMPLE).await;
        let handled = flow.handled.load(Ordering::Relaxed);
        backlog.push(flow.emitted.load(Ordering::Relaxed).saturating_sub(handled) as f64);
    }
    flow.stop.store(true, Ordering::Relaxed);
    for emitter in emitters {
        emitter.await??;
    }
    let emitted = rate(flow.emitted.load(Ordering::Relaxed), started.elapsed());
    if let Some(running) = running {
        running.stop().await?;
        EventBox::from(&stage.pool).group("live").remove().await?;
    }
    let tenth = (backlog.len() / 10).max(1);
    let mean =
        |part: &[f64]| (part.iter().sum::<f64>() / part.len().max(1) as f64).max(UNDER_WAY.as_secs_f64() * emitted);
    let third = (backlog.len() / 3).saturating_sub(tenth / 2);
    let backlog_at_a_third = mean(&backlog[third..(third + tenth).min(backlog.len())]);
    Ok(Run { emitted, backlog_at_a_third, backlog_at_the_end: mean(&backlog[backlog.len() - tenth..]) })
}

fn consumer(stage: &Stage, flow: &Arc<Flow>) -> anyhow::Result<Consumer> {
    let consumer = Consumer::builder(&stage.pool, "live")
        .state(flow.clone())
        .on(async |event: OrderPlaced, cx: &mut Context<'_, Arc<Flow>>| -> Result<(), BoxError> {
            std::hint::black_box(event);
            cx.state().handled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .workers(2)
        .from_now()
        .retention(None)
        .build()?;
    Ok(consumer)
}

async fn emit(pool: PgPool, outbox: Outbox, emitter: usize, flow: Arc<Flow>) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    let mut order = emitter;
    while !flow.stop.load(Ordering::Relaxed) {
        let mut tx = connection.begin().await?;
        outbox.emit(&mut *tx, &OrderPlaced::new(order as i64)).await?;
        tx.commit().await?;
        flow.emitted.fetch_add(1, Ordering::Relaxed);
        order += EMITTERS;
    }
    Ok(())
}
