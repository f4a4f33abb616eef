use std::time::Duration;

use event_box::{Cancellation, LogError};
use event_box_tests::{Logged, Running, TestLog};

use super::{Role, consuming, counted, execute};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn an_emitting_role_emits_with_a_delay() {
    let log = TestLog::new().await;
    let role = Role::new(&log).await.granted(&log, "A role that emits.", "emitter").await;
    log.outbox.emit(&role.pool, &counted("k", 1)).delay(DAY).await.unwrap();
    let emit_at = "select event_box.emit_at(now() + interval '1 day', 't', '{}')";
    sqlx::raw_sql(emit_at).execute(&role.pool).await.unwrap();
    assert_eq!(log.number("select count(*) from event_box.delayed").await, 2);
    role.assert_refused(&[
        "select from event_box.delayed",
        "delete from event_box.delayed",
        "update event_box.delayed set due_at = now()",
        "insert into event_box.delayed (due_at, id, topic, payload, emitted_at)
         values (now(), gen_random_uuid(), 't', '{}', now())",
        "insert into event_box.delayed (ordinal, due_at, id, topic, payload) overriding system value
         values (1, now(), gen_random_uuid(), 't', '{}')",
    ])
    .await;
    role.gone(&log).await;
    log.close().await;
}

#[tokio::test]
async fn a_cancelling_role_can_do_that_and_nothing_else() {
    let log = TestLog::new().await;
    let id = log.outbox.emit(&log.pool, &counted("k", 1)).delay(DAY).await.unwrap();
    let role = Role::new(&log).await;
    let error = log.outbox.cancel(&role.pool, id).await.unwrap_err();
    assert!(matches!(error, LogError::Privilege { .. }), "{error:?}");
    let role = role.granted(&log, "A role that cancels delayed events.", "canceller").await;
    assert_eq!(log.outbox.cancel(&role.pool, id).await.unwrap(), Cancellation::Cancelled);
    assert_eq!(log.outbox.cancel(&role.pool, id).await.unwrap(), Cancellation::NotWaiting);
    role.assert_refused(&[
        "select payload from event_box.delayed",
        "update event_box.delayed set due_at = now()",
        "insert into event_box.delayed (due_at, id, topic, payload) values (now(), gen_random_uuid(), 't', '{}')",
        "select from event_box.events",
    ])
    .await;
    role.gone(&log).await;
    log.close().await;
}

/// It is told once and what to do, deliveries go on meanwhile, and it is over once the grants of the documentation are there.
#[tokio::test]
async fn a_consumer_that_may_not_move_delayed_events_says_so_once_and_goes_on() {
    let logged = Logged::here();
    let log = TestLog::new().await;
    log.sql("create table effects (n bigint)").await;
    let role = Role::new(&log).await.granted(&log, "A role that consumes, or pulls.", "consumer").await;
    execute(&log.pool, format!("grant insert on effects to {}", role.name)).await.unwrap();
    for privilege in
        ["select on event_box.delayed", "update (ordinal) on event_box.delayed", "insert (id) on event_box.events"]
    {
        let already = log.number("select count(*) from effects").await;
        let failed = "delayed events cannot be moved into the log, trying on";
        let said = logged.times(failed);
        execute(&log.pool, format!("revoke {privilege} from {}", role.name)).await.unwrap();
        let running = Running::start(consuming(&role.pool).build().unwrap());
        log.outbox.emit(&log.pool, &counted("delayed", 1)).delay(Duration::from_millis(1)).await.unwrap();
        logged.wait_for(failed, said + 1).await;
        let line = logged.said(failed).pop().unwrap();
        assert!(line.fields["error"].contains("permission denied for table"), "{line:?}");
        assert!(line.fields["remedy"].contains("docs/operations.md"), "{line:?}");
        log.outbox.emit(&log.pool, &counted("now", 2)).await.unwrap();
        log.wait_until("select count(*) from effects", already + 1).await;
        execute(&log.pool, format!("grant {privilege} to {}", role.name)).await.unwrap();
        log.wait_until("select count(*) from effects", already + 2).await;
        logged.wait_for("delayed events are moved into the log again", said + 1).await;
        assert_eq!(logged.times(failed), said + 1);
        running.stop().await.unwrap();
    }
    assert_eq!(logged.alarms().len(), 3, "{:#?}", logged.alarms());
    role.gone(&log).await;
    log.close().await;
}
