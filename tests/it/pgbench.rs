use std::io::Write as _;

use event_box_tests::{Seen, TestLog, client};

use crate::processes::Member;

/// pgbench's TPC-B-like transaction, with an event for the account in it: after the account's update has locked its row.
const SCRIPT: &str = r#"\set aid random(1, 100 * :scale)
\set bid random(1, :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select event_box.emit('bank.transferred', json_build_object('aid', :aid, 'delta', :delta), (:aid)::text);
update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;
update pgbench_branches set bbalance = bbalance + :delta where bid = :bid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:tid, :bid, :aid, :delta, current_timestamp);
end;
"#;

fn pgbench(log: &TestLog, arguments: &[&str]) {
    let ran = client("pgbench").args(arguments).arg(log.url()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A foreign writer that knows nothing of event-box but its SQL function; two processes keep a projection of every balance.
#[tokio::test(flavor = "multi_thread")]
async fn a_projection_of_pgbenchs_balances_is_exact() {
    let log = TestLog::new().await;
    pgbench(&log, &["--initialize", "--quiet", "--scale=1"]);
    sqlx::raw_sql(Seen::TABLE).execute(&log.pool).await.unwrap();
    log.sql("create table balances (aid bigint primary key, balance bigint not null)").await;
    let members = [Member::spawn(&log, "bank", "one", 4), Member::spawn(&log, "bank", "two", 4)];
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(SCRIPT.as_bytes()).unwrap();
    let file = format!("--file={}", script.path().display());
    pgbench(&log, &["--no-vacuum", "--client=8", "--jobs=2", "--transactions=500", "--define=scale=1", &file]);
    assert_eq!(log.number("select count(*) from event_box.events").await, 4_000);
    let agree = "select (count(*) = 0)::int::bigint from pgbench_accounts a left join balances b using (aid)
                 where a.abalance <> coalesce(b.balance, 0)";
    log.wait_until(agree, 1).await;
    for member in members {
        assert!(member.terminate().success());
    }
    // Equal at the end as well, so that nothing came twice afterwards, and as many changes as pgbench's own history tells.
    assert_eq!(log.number(agree).await, 1);
    let history = log.number("select sum(delta)::bigint from pgbench_history").await;
    assert_eq!(log.number("select sum(balance)::bigint from balances").await, history);
    assert!(log.number("select count(*) from pgbench_accounts where abalance <> 0").await > 0);
    log.close().await;
}
