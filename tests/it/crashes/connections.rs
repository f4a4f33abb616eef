//! Connections are cut and stalled at random moments, in the middle of statements and of commits, those of emitters too.

use std::{sync::Arc, time::Duration};

use event_box_dev::{Server, ServerOptions};
use event_box_tests::{Mischief, PATIENCE, Proxy};
use tokio::{
    task::block_in_place,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{book, emitter, member::Member, mode::Mode};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_within_statements_and_commits_lose_and_double_nothing() {
    let mut rng = book::rng();
    let server = block_in_place(|| Server::start(&ServerOptions::new().setting("fsync", "off"))).unwrap();
    let database = server.create_database("crashes").await.unwrap();
    let pool = database.pool(3).await.unwrap();
    book::open(&pool).await;
    let proxy = Proxy::start(server.port()).await;
    let url = database.url().replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
    let members: Vec<_> = Mode::GROUPS
        .into_iter()
        .map(|mode| (mode, Member::spawn(&url, &format!("{mode:?}"), "m", mode, None)))
        .collect();
    let stop = CancellationToken::new();
    let emitters = emitter::start(4, &url, &mut rng, &stop);
    let deadline = Instant::now() + 2 * PATIENCE;
    while book::number(&pool, "select count(distinct grp) from seen").await < Mode::GROUPS.len() as i64 {
        assert!(Instant::now() < deadline, "not every group sees anything");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mischief, until) = (Arc::new(Mischief::new(rng.u64(..))), Instant::now() + book::time(8));
    proxy.make(Some(mischief.clone()));
    while Instant::now() < until || mischief.fewest().0 < 5 || mischief.fewest().1 < 5 {
        assert!(Instant::now() < until + 2 * PATIENCE, "{mischief:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.make(None);
    stop.cancel();
    timeout(2 * PATIENCE, emitter::assert_counted(&pool, emitters)).await.expect("the emitters end");
    for mode in Mode::GROUPS {
        let group = format!("{mode:?}");
        book::wait_until_settled(&pool, &group).await;
        book::assert_complete(&pool, &group, mode).await;
    }
    println!("{} events, {mischief:?}", book::number(&pool, "select sum(n)::bigint from counters").await);
    for (mode, member) in members {
        member.terminate(&format!("{mode:?}")).await;
    }
    pool.close().await;
    database.close().await.unwrap();
}
