//! The server is killed, stopped and restarted, and single backends are killed and ended, beside emitters and groups of every mode.

use std::{process::Command, str::FromStr, time::Duration};

use event_box_dev::{Server, ServerOptions};
use event_box_tests::PATIENCE;
use fastrand::Rng;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    task::block_in_place,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{book, emitter, member::Member, mode::Mode};

#[derive(Debug, Clone, Copy)]
enum Blow {
    /// SIGKILL for the server, and a restart.
    Kill,
    /// SIGINT, and a restart.
    Stop,
    /// SIGKILL for one of its backends: it ends all others, and recovers.
    KillBackend,
    /// `pg_terminate_backend` for some.
    Terminate,
}

impl Blow {
    const ALL: [Self; 4] = [Self::Kill, Self::Stop, Self::KillBackend, Self::Terminate];

    async fn fall(self, server: &Server, pool: &PgPool, rng: &mut Rng) {
        match self {
            Self::Kill => block_in_place(|| server.kill().and_then(|()| server.restart())).unwrap(),
            Self::Stop => block_in_place(|| server.stop().and_then(|()| server.restart())).unwrap(),
            Self::KillBackend => {
                // One that sees the server end all others.
                let mut witness = PgConnection::connect_with(&pool.connect_options()).await.unwrap();
                let one = "select pid from pg_stat_activity
                           where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 1";
                let pid: i32 = sqlx::query_scalar(one).fetch_one(&mut witness).await.unwrap();
                let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill runs");
                let deadline = Instant::now() + PATIENCE;
                // It may have ended by itself just before.
                while killed.success() && sqlx::query("select").execute(&mut witness).await.is_ok() {
                    assert!(Instant::now() < deadline, "the server outlived its backend");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Self::Terminate => {
                let mut connection = PgConnection::connect_with(&pool.connect_options()).await.unwrap();
                let some = "select count(pg_terminate_backend(pid)) from (
                                select pid from pg_stat_activity
                                where backend_type = 'client backend' and application_name <> 'the test'
                                order by random() limit $1) as victims";
                sqlx::query(some).bind(rng.i64(1..6)).execute(&mut connection).await.unwrap();
            }
        }
        is_back(pool).await;
    }
}

/// Waits until the server answers.
async fn is_back(pool: &PgPool) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = PgConnection::connect_with(&pool.connect_options()).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_loses_backends_again_and_again_loses_and_doubles_nothing() {
    let mut rng = book::rng();
    let server = block_in_place(|| Server::start(&ServerOptions::new().setting("fsync", "off"))).unwrap();
    let database = server.create_database("crashes").await.unwrap();
    let own = PgConnectOptions::from_str(database.url()).unwrap().application_name("the test");
    let pool = PgPoolOptions::new().max_connections(3).connect_with(own).await.unwrap();
    book::open(&pool).await;
    let members: Vec<_> = Mode::GROUPS
        .into_iter()
        .map(|mode| (mode, Member::spawn(database.url(), &format!("{mode:?}"), "m", mode, None)))
        .collect();
    let stop = CancellationToken::new();
    let emitters = emitter::start(4, database.url(), &mut rng, &stop);
    // All are at work before the first blow falls.
    let deadline = Instant::now() + PATIENCE;
    while book::number(&pool, "select count(distinct grp) from seen").await < Mode::GROUPS.len() as i64 {
        assert!(Instant::now() < deadline, "not every group sees anything");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (until, mut blows) = (Instant::now() + book::time(8), Vec::new());
    while blows.len() < 2 * Blow::ALL.len() || Instant::now() < until {
        let mut round = Blow::ALL;
        rng.shuffle(&mut round);
        for blow in round {
            tokio::time::sleep(Duration::from_millis(rng.u64(100..900))).await;
            blow.fall(&server, &pool, &mut rng).await;
            blows.push(blow);
        }
    }
    stop.cancel();
    timeout(2 * PATIENCE, emitter::assert_counted(&pool, emitters)).await.expect("the emitters end");
    for mode in Mode::GROUPS {
        let group = format!("{mode:?}");
        book::wait_until_settled(&pool, &group).await;
        book::assert_complete(&pool, &group, mode).await;
    }
    println!("{} events, {blows:?}", book::number(&pool, "select sum(n)::bigint from counters").await);
    for (mode, member) in members {
        member.terminate(&format!("{mode:?}")).await;
    }
    pool.close().await;
    database.close().await.unwrap();
}
