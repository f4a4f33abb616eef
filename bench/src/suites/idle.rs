//! Groups that have nothing to do.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use event_box::Outbox;
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::{
    child::Process,
    comparison::{Comparison, Line},
    event::{OrderPlaced, Unread},
    figure::Figure,
    proc, raw,
    stage::{Bench, Stage},
    statements::Counting,
};

/// What the consumer's connections call themselves.
pub const APPLICATION: &str = "idle-groups";
/// Groups in one process, with one handle.
pub const GROUPS: usize = 10;

/// What goes on while the groups have nothing to do.
#[derive(Debug, Clone, Copy)]
enum Neighbour {
    /// A hundred transactions a second that write and do not emit.
    Writes,
    /// Ten events a second, of a topic that no group reads.
    EmitsElsewhere,
}

/// Ten idle groups that share a handle: the share of a core that their process and its server processes take together, and statements.
pub(super) async fn idle(bench: &Bench) -> anyhow::Result<(Vec<Comparison>, Vec<Figure>)> {
    let bench = bench.counting().await?;
    let (mut comparisons, mut figures) = (Vec::new(), Vec::new());
    for (neighbour, beside) in [
        (Neighbour::Writes, "an application that writes and does not emit"),
        (Neighbour::EmitsElsewhere, "one that emits 10/s to topics they do not read"),
    ] {
        let stage = bench.stage().await?;
        let run = run(&bench, &stage, neighbour).await?;
        stage.close().await?;
        let what =
            format!("ten idle groups with one handle beside {beside}: their process and its backends; of one core");
        let (own, server) = (run.own.iter().sum::<f64>(), run.server.iter().sum::<f64>());
        let both: Vec<_> = run.own.iter().zip(&run.server).map(|(own, server)| own + server).collect();
        let share = |part: f64| part / run.own.len() as f64;
        comparisons.push(Comparison::with(what, Line::AtMost(0.01), "% of a core", &both, 100.0).note(format!(
            "mean: {:.2} % in the process, {:.2} % in its {} backends; windows of {:.0} s, one after the other",
            share(own),
            share(server),
            run.backends,
            run.window.as_secs_f64(),
        )));
        let counted = run.counting.name();
        let per_second = format!("ten idle groups with one handle beside {beside}: {counted} a second");
        figures.push(Figure::new(per_second, run.statements, "/s"));
    }
    Ok((comparisons, figures))
}

struct Run {
    /// Per cent of a core in each window.
    own: Vec<f64>,
    server: Vec<f64>,
    backends: usize,
    statements: f64,
    counting: Counting,
    window: Duration,
}

async fn run(bench: &Bench, stage: &Stage, neighbour: Neighbour) -> anyhow::Result<Run> {
    // One event, so that no group stands on an empty log.
    stage.outbox.emit(&stage.pool, &OrderPlaced::new(0)).await?;
    let counting = Counting::of(&stage.pool).await;
    let mut child = Process::start(["child", "idle", "--url", stage.url()])?;
    child.expect("ready").await?;
    let going_on = tokio::spawn(neighbour.go_on(stage.pool.clone()));
    // The first looks, which every start costs, are over then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let window = Duration::from_millis(bench.sized(5_000, 12_000) as u64);
    let statements = counting.total(&stage.pool, &NEIGHBOURS).await?;
    let started = Instant::now();
    let mut run = Run { own: vec![], server: vec![], backends: 0, statements: 0.0, counting, window };
    let mut before = usage(&child, &stage.pool).await?;
    for _ in 0..bench.repetitions {
        tokio::time::sleep(window).await;
        let after = usage(&child, &stage.pool).await?;
        let seconds = (after.at - before.at).as_secs_f64();
        let per_cent = |time: Duration| time.as_secs_f64() / seconds * 100.0;
        run.own.push(per_cent(after.own.saturating_sub(before.own)));
        // A backend that is new was begun in this window; what one that is gone did in it is not known.
        let of = |(backend, cpu): (&i32, &Duration)| {
            cpu.saturating_sub(before.server.get(backend).copied().unwrap_or_default())
        };
        run.server.push(per_cent(after.server.iter().map(of).sum()));
        run.backends = after.server.len();
        before = after;
    }
    let total = counting.total(&stage.pool, &NEIGHBOURS).await? - statements;
    run.statements = total / started.elapsed().as_secs_f64();
    ensure_alive(&going_on)?;
    going_on.abort();
    child.stop().await?;
    Ok(run)
}

fn ensure_alive(going_on: &JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    anyhow::ensure!(!going_on.is_finished(), "what went on beside the idle groups has failed");
    Ok(())
}

/// What the neighbours' statements are known by, so that the groups' alone are counted.
const NEIGHBOURS: [&str; 2] = ["insert into raw", "insert into event_box.events"];

struct Usage {
    at: Instant,
    own: Duration,
    server: HashMap<i32, Duration>,
}

async fn usage(child: &Process, pool: &PgPool) -> anyhow::Result<Usage> {
    let backends: Vec<i32> = sqlx::query_scalar("select pid from pg_stat_activity where application_name = $1")
        .bind(APPLICATION)
        .fetch_all(pool)
        .await?;
    let at = Instant::now();
    let own = proc::cpu(child.id()?)?;
    // One that ended in between is left out.
    let cpu = |backend: i32| proc::cpu(backend as u32).ok().map(|cpu| (backend, cpu));
    Ok(Usage { at, own, server: backends.into_iter().filter_map(cpu).collect() })
}

impl Neighbour {
    /// By single statements, so that none but the groups begin and commit.
    async fn go_on(self, pool: PgPool) -> anyhow::Result<()> {
        let every = match self {
            Self::Writes => Duration::from_millis(10),
            Self::EmitsElsewhere => Duration::from_millis(100),
        };
        let mut ticks = tokio::time::interval(every);
        let mut connection = pool.acquire().await?;
        for i in 0.. {
            ticks.tick().await;
            match self {
                Self::Writes => raw::insert(&mut connection, &OrderPlaced::new(i)).await?,
                Self::EmitsElsewhere => {
                    Outbox::new().emit(&mut *connection, &Unread { order_id: i }).await?;
                }
            }
        }
        Ok(())
    }
}
