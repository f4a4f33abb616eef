use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use event_box::{
    Backoff, Consumer, ConsumerGroup, Context, EventBox, Failure, GroupError, Mode, ParkedEvent, ParkedFilter,
    ParkedState, Schema, Selection,
};
use event_box_tests::{Counted, Noted, Running, Seen, TestLog, seen_by, wait_until_seen};

/// What ails the handlers; they reject negative numbers until it is mended.
type Mended = Arc<AtomicBool>;

async fn count(event: Counted, cx: &mut Context<'_, Mended>) -> Result<(), Failure> {
    if event.n < 0 && !cx.state().load(Ordering::Relaxed) {
        return Err(Failure::Reject("negative".into()));
    }
    Ok(Seen::note("m", &event, cx).await?)
}

async fn note(event: Noted, cx: &mut Context<'_, Mended>) -> Result<(), Failure> {
    count(Counted { key: event.text, n: -1 }, cx).await
}

/// A log with a group `g` that can be mended.
struct Fixture {
    log: TestLog,
    group: ConsumerGroup,
    mended: Mended,
}

impl Fixture {
    async fn new() -> Self {
        let log = TestLog::new().await;
        log.sql(Seen::TABLE).await;
        let group = EventBox::from(&log.pool).group("g").by("ann");
        Self { log, group, mended: Mended::default() }
    }

    fn run(&self) -> Running {
        let builder = Consumer::builder(&self.log.pool, "g").state(self.mended.clone()).on(count).on(note);
        Running::start(builder.backoff(Backoff::fixed(Duration::from_secs(3600))).max_attempts(2).build().unwrap())
    }

    async fn emit(&self, key: &str, numbers: &[i64]) {
        for &n in numbers {
            self.log.outbox.emit(&self.log.pool, &Counted { key: key.to_owned(), n }).await.unwrap();
        }
    }

    async fn wait_for_dead(&self, events: i64) {
        self.log.wait_until("select count(*) from event_box.parked where dead_at is not null", events).await;
    }

    /// The key's first event is dead and holds the others, all of them parked; nobody consumes.
    async fn held(key: &str, numbers: &[i64]) -> Self {
        let fixture = Self::new().await;
        fixture.emit(key, &numbers[..1]).await;
        let running = fixture.run();
        fixture.wait_for_dead(1).await;
        running.stop().await.unwrap();
        fixture.log.sql("update event_box.parked set holds_key = true").await;
        fixture.emit(key, &numbers[1..]).await;
        let running = fixture.run();
        fixture.log.wait_until("select count(*) from event_box.parked", numbers.len() as i64).await;
        running.stop().await.unwrap();
        fixture
    }

    async fn first(&self) -> ParkedEvent {
        self.group.parked(&ParkedFilter::new()).await.unwrap().remove(0)
    }

    async fn parked(&self) -> i64 {
        self.log.number("select count(*) from event_box.parked").await
    }

    /// Action, key and detail of what was done to events, oldest first.
    async fn interventions(&self) -> Vec<(String, Option<String>, Option<String>)> {
        let mut records = self.group.interventions(100).await.unwrap();
        records.reverse();
        let events = records.into_iter().filter(|record| record.sequence.is_some()).map(|record| {
            assert_eq!((record.actor.as_str(), record.group.as_deref()), ("ann", Some("g")));
            assert!(record.event_id.is_some() && record.topic.is_some());
            (record.action, record.partition_key, record.detail)
        });
        events.collect()
    }
}

#[tokio::test]
async fn one_event_a_key_a_topic_and_all_are_requeued() {
    let fixture = Fixture::new().await;
    for key in ["a", "b", "c", "d"] {
        fixture.emit(key, if key == "a" { &[-1, -2] } else { &[-1] }).await;
    }
    fixture.log.outbox.emit(&fixture.log.pool, &Noted { text: "noted".to_owned() }).await.unwrap();
    let running = fixture.run();
    fixture.wait_for_dead(6).await;
    let dead = fixture.group.dead_letters().await.unwrap();
    let b = dead.iter().find(|dead| dead.partition_key.as_deref() == Some("b")).unwrap();
    assert_eq!((b.state, b.attempts, b.error.as_deref()), (ParkedState::Dead, 1, Some("negative")));
    // What is requeued while nothing is mended dies again.
    let requeued = fixture.group.requeue(Selection::Event(b.sequence)).await.unwrap();
    assert_eq!((requeued.events, requeued.out_of_order), (1, 1));
    fixture
        .log
        .wait_until(
            "select count(*) from event_box.parked where dead_at > (select max(at) from event_box.interventions)",
            1,
        )
        .await;
    fixture.mended.store(true, Ordering::Relaxed);
    // An idle consumer looks by itself every half minute: this is the requeue's own doing.
    tokio::time::timeout(Duration::from_secs(20), async {
        let requeue = async |which| {
            let requeued = fixture.group.requeue(which).await.unwrap();
            (requeued.events, requeued.out_of_order)
        };
        assert_eq!(requeue(Selection::Event(b.sequence)).await, (1, 1));
        wait_until_seen(&fixture.log.pool, "g", 1).await;
        assert_eq!(requeue(Selection::Key("a".to_owned())).await, (2, 2));
        wait_until_seen(&fixture.log.pool, "g", 3).await;
        assert_eq!(requeue(Selection::Topic("test.noted".to_owned())).await, (1, 0), "without a key there is no order");
        wait_until_seen(&fixture.log.pool, "g", 4).await;
        assert_eq!(requeue(Selection::All).await, (2, 2));
        wait_until_seen(&fixture.log.pool, "g", 6).await;
        assert_eq!(requeue(Selection::All).await, (0, 0));
    })
    .await
    .expect("requeued events are handled at once");
    running.stop().await.unwrap();
    let once = |key: &str| (key.to_owned(), vec![-1]);
    let expected = [("a".to_owned(), vec![-1, -2]), once("b"), once("c"), once("d"), once("noted")];
    assert_eq!(seen_by(&fixture.log.pool, "g").await, expected);
    assert_eq!(fixture.parked().await, 0);
    let gone_on = |key: &str| ("requeue".to_owned(), Some(key.to_owned()), Some("its key had gone on".to_owned()));
    let noted = ("requeue".to_owned(), None, None);
    let expected = [gone_on("b"), gone_on("b"), gone_on("a"), gone_on("a"), noted, gone_on("c"), gone_on("d")];
    assert_eq!(fixture.interventions().await, expected);
    fixture.log.close().await;
}

#[tokio::test]
async fn a_requeued_dead_letter_goes_before_what_its_key_held_back() {
    let fixture = Fixture::held("k", &[-1, 2, 3]).await;
    let parked = fixture.group.parked(&ParkedFilter::new()).await.unwrap();
    let states: Vec<_> = parked.iter().map(|parked| parked.state).collect();
    assert_eq!(states, [ParkedState::DeadHoldingKey, ParkedState::Waiting, ParkedState::Waiting]);
    let waiting = fixture.group.requeue(Selection::Event(parked[1].sequence)).await.unwrap();
    assert_eq!((waiting.events, waiting.out_of_order), (0, 0), "it waits as before");
    let requeued = fixture.group.requeue(Selection::Key("k".to_owned())).await.unwrap();
    assert_eq!((requeued.events, requeued.out_of_order), (1, 0), "the key has not gone on");
    let requeued = fixture.first().await;
    assert_eq!((requeued.state, requeued.attempts), (ParkedState::Retrying, 0));
    assert_eq!(requeued.error.as_deref(), Some("negative"), "what happened stays to be read");
    fixture.mended.store(true, Ordering::Relaxed);
    let running = fixture.run();
    wait_until_seen(&fixture.log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&fixture.log.pool, "g").await, [("k".to_owned(), vec![-1, 2, 3])]);
    assert_eq!(fixture.interventions().await, [("requeue".to_owned(), Some("k".to_owned()), None)]);
    fixture.log.close().await;
}

#[tokio::test]
async fn a_skipped_event_frees_its_key_in_order_and_never_comes() {
    let fixture = Fixture::held("k", &[-1, 2, 3]).await;
    assert_eq!(fixture.group.skip(Selection::All).await.unwrap(), 1);
    let states = async || {
        let parked = fixture.group.parked(&ParkedFilter::new()).await.unwrap();
        parked.into_iter().map(|parked| parked.state).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [ParkedState::Retrying, ParkedState::Waiting], "the next of its key is due");
    fixture.mended.store(true, Ordering::Relaxed);
    let running = fixture.run();
    wait_until_seen(&fixture.log.pool, "g", 2).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&fixture.log.pool, "g").await, [("k".to_owned(), vec![2, 3])]);
    assert_eq!(fixture.interventions().await, [("skip".to_owned(), Some("k".to_owned()), None)]);
    assert_eq!(fixture.log.number("select count(*) from event_box.events").await, 3, "the log keeps it");
    fixture.log.close().await;
}

#[tokio::test]
async fn an_event_that_is_retried_may_be_hurried_or_skipped() {
    let fixture = Fixture::new().await;
    let running = Running::start(
        Consumer::builder(&fixture.log.pool, "g")
            .state(fixture.mended.clone())
            .on(async |event: Counted, cx: &mut Context<'_, Mended>| -> Result<(), Failure> {
                if !cx.state().load(Ordering::Relaxed) {
                    return Err(Failure::Retry("not yet".into()));
                }
                Ok(Seen::note("m", &Counted { n: cx.attempt().into(), ..event }, cx).await?)
            })
            .backoff(Backoff::fixed(Duration::from_secs(3600)))
            .build()
            .unwrap(),
    );
    fixture.emit("hurried", &[1]).await;
    fixture.emit("skipped", &[1, 2]).await;
    fixture.log.wait_until("select count(*) from event_box.parked", 3).await;
    let parked = fixture.group.parked(&ParkedFilter::new().states([ParkedState::Retrying])).await.unwrap();
    let [hurried, skipped] = &parked[..] else { panic!("{parked:#?}") };
    assert!(hurried.due_at > Some(std::time::SystemTime::now() + Duration::from_secs(60)));
    fixture.mended.store(true, Ordering::Relaxed);
    let requeued = fixture.group.requeue(Selection::Event(hurried.sequence)).await.unwrap();
    assert_eq!((requeued.events, requeued.out_of_order), (1, 0));
    wait_until_seen(&fixture.log.pool, "g", 1).await;
    // Five polls: the group has found that there is nothing more, and would look by itself in half a minute.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fixture.group.skip(Selection::Event(skipped.sequence)).await.unwrap(), 1);
    tokio::time::timeout(Duration::from_secs(20), wait_until_seen(&fixture.log.pool, "g", 2))
        .await
        .expect("what waited goes out at once");
    running.stop().await.unwrap();
    let attempts = [("hurried".to_owned(), vec![2]), ("skipped".to_owned(), vec![1])];
    assert_eq!(seen_by(&fixture.log.pool, "g").await, attempts, "the attempt that failed still counts");
    fixture.log.close().await;
}

#[tokio::test]
async fn an_edited_payload_is_delivered_while_the_log_keeps_its_own() {
    let fixture = Fixture::new().await;
    fixture.log.sql("select event_box.emit('test.counted', '{\"key\": \"k\", \"n\": \"seven\"}', 'k')").await;
    let running = fixture.run();
    fixture.log.wait_until("select count(*) from event_box.parked", 1).await;
    running.stop().await.unwrap();
    let sequence = fixture.first().await.sequence;
    let error = fixture.group.edit(sequence, "{\"key\": \"k\", \"n\": 7").await.unwrap_err();
    assert!(matches!(error, GroupError::Payload { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("the payload given for event {sequence} is not JSON: nothing was changed"));
    assert!(!fixture.first().await.edited);
    let requeued = fixture.group.edit(sequence, "{\"key\": \"k\",  \"n\": 7}").await.unwrap();
    assert_eq!(requeued.events, 1);
    assert!(fixture.first().await.edited);
    let running = fixture.run();
    wait_until_seen(&fixture.log.pool, "g", 1).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&fixture.log.pool, "g").await, [("k".to_owned(), vec![7])]);
    let kept: String =
        sqlx::query_scalar("select payload::text from event_box.events").fetch_one(&fixture.log.pool).await.unwrap();
    assert_eq!(kept, "{\"key\": \"k\", \"n\": \"seven\"}");
    let records = fixture.group.interventions(1).await.unwrap();
    assert_eq!((records[0].action.as_str(), records[0].sequence), ("edit", Some(sequence)));
    let told =
        "select count(*) from event_box.interventions as i where i::text like '%seven%' or i::text like '%n_: 7%'";
    assert_eq!(fixture.log.number(told).await, 0, "a payload may be personal");
    fixture.log.close().await;
}

#[tokio::test]
async fn what_is_not_parked_cannot_be_decided_on() {
    let fixture = Fixture::new().await;
    let no_group = fixture.group.requeue(Selection::All).await.unwrap_err();
    assert!(matches!(no_group, GroupError::NoSuchGroup { .. }), "{no_group:?}");
    assert!(matches!(fixture.group.dead_letters().await, Err(GroupError::NoSuchGroup { .. })));
    fixture.emit("k", &[1]).await;
    let running = fixture.run();
    wait_until_seen(&fixture.log.pool, "g", 1).await;
    running.stop().await.unwrap();
    let error = fixture.group.requeue(Selection::Event(1)).await.unwrap_err();
    let text = "event 1 is not parked in consumer group `g`: `ConsumerGroup::parked` lists what is";
    assert_eq!(error.to_string(), text);
    assert!(matches!(fixture.group.skip(Selection::Event(1)).await, Err(GroupError::NotParked { sequence: 1, .. })));
    assert!(matches!(fixture.group.edit(1, "{}").await, Err(GroupError::NotParked { .. })));
    assert_eq!(fixture.group.skip(Selection::All).await.unwrap(), 0);
    assert_eq!(fixture.group.interventions(10).await.unwrap(), []);
    fixture.log.close().await;
}

/// A decision takes the partition's lock, and goes by what is there once it has it.
#[tokio::test]
async fn a_decision_waits_for_the_batch_in_hand() {
    let fixture = Fixture::held("k", &[-1, 2]).await;
    let sequence = fixture.first().await.sequence;
    let mut batch = fixture.log.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "select from event_box.cursors where partition = (select min(partition) from event_box.parked) for update",
    )
    .execute(&mut *batch)
    .await
    .unwrap();
    let group = fixture.group.clone();
    let requeue = tokio::spawn(async move { group.requeue(Selection::Event(sequence)).await });
    let group = fixture.group.clone();
    let skip = tokio::spawn(async move { group.skip(Selection::All).await });
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    fixture.log.wait_until(waits, 2).await;
    sqlx::raw_sql("delete from event_box.parked where dead_at is not null").execute(&mut *batch).await.unwrap();
    batch.commit().await.unwrap();
    let error = requeue.await.unwrap().unwrap_err();
    assert!(matches!(error, GroupError::NotParked { .. }), "{error:?}");
    assert_eq!(skip.await.unwrap().unwrap(), 0);
    // Who held the cursor ended in good order: the next to claim it must not take it for a death.
    let aborted = "select count(*) from event_box.cursors where xmax::text <> '0' and pg_xact_status(xmax::text::xid8) = 'aborted'";
    assert_eq!(fixture.log.number(aborted).await, 0);
    fixture.log.close().await;
}

/// Every state, on one page and on several.
#[tokio::test]
async fn parked_events_are_listed_by_state_topic_and_key() {
    let fixture = Fixture::new().await;
    let running = fixture.run();
    fixture.log.wait_until("select count(*) from event_box.cursors", 64).await;
    running.stop().await.unwrap();
    for (key, numbers) in [("retried", &[1, 2][..]), ("held", &[3, 4]), ("gone on", &[5, 6]), ("other", &[7])] {
        fixture.emit(key, numbers).await;
    }
    fixture.log.outbox.emit(&fixture.log.pool, &Noted { text: "no key".to_owned() }).await.unwrap();
    fixture
        .log
        .sql(
            "insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, due_at, dead_at, holds_key,
                                           attempts, deaths, error, first_failed_at, last_failed_at, payload)
             select 'g', partition, sequence, topic, partition_key,
                    case sequence when 7 then 'no_handler' when 8 then 'snoozed' when 2 then 'waiting' else 'failed' end,
                    case when sequence in (1, 6, 8) then now() + interval '1 hour' when sequence = 4 then now() end,
                    case when sequence in (3, 5) then now() end, sequence = 3, sequence::int, 0, 'error ' || sequence, now(), now(),
                    case sequence when 1 then '{}'::json end
             from event_box.events",
        )
        .await;
    let list = async |filter: ParkedFilter| {
        let parked = fixture.group.parked(&filter).await.unwrap();
        parked.into_iter().map(|parked| parked.sequence).collect::<Vec<_>>()
    };
    let all = fixture.group.parked(&ParkedFilter::new()).await.unwrap();
    use ParkedState::{Dead, DeadHoldingKey, NoHandler, Retrying, Snoozed, Waiting};
    let states: Vec<_> = all.iter().map(|parked| parked.state).collect();
    // The fourth has a due time, and waits all the same: the one before it holds the key.
    assert_eq!(states, [Retrying, Waiting, DeadHoldingKey, Waiting, Dead, Retrying, NoHandler, Snoozed]);
    let first = &all[0];
    assert_eq!((first.topic.as_str(), first.version, first.attempts), ("test.counted", Some(1), 1));
    assert_eq!(first.error.as_deref(), Some("error 1"));
    assert!(first.id.is_some() && first.edited && first.due_at > Some(first.parked_at) && first.dead_at.is_none());
    assert!(first.first_failed_at.is_some() && first.last_failed_at.is_some() && !all[1].edited);
    assert_eq!(list(ParkedFilter::new().limit(3)).await, [1, 2, 3]);
    assert_eq!(list(ParkedFilter::new().limit(3).after(3)).await, [4, 5, 6]);
    assert_eq!(list(ParkedFilter::new().states([Waiting, Snoozed])).await, [2, 4, 8]);
    assert_eq!(list(ParkedFilter::new().states([])).await, [0; 0]);
    assert_eq!(list(ParkedFilter::dead_letters()).await, [3, 5]);
    assert_eq!(list(ParkedFilter::new().states([Dead])).await, [5]);
    assert_eq!(list(ParkedFilter::new().topic("test.noted")).await, [8]);
    assert_eq!(list(ParkedFilter::new().partition_key("held").states([Waiting])).await, [4]);
    for state in states {
        assert_eq!(state.to_string().parse::<ParkedState>().unwrap(), state);
    }
    assert!("asleep".parse::<ParkedState>().is_err());
    fixture.log.close().await;
}

#[tokio::test]
async fn nobody_named_is_the_session_user() {
    let fixture = Fixture::held("k", &[-1]).await;
    let log = EventBox::from(&fixture.log.pool);
    assert_eq!(log.group("g").skip(Selection::Key("k".to_owned())).await.unwrap(), 1);
    let records = log.interventions(1).await.unwrap();
    assert_eq!((records[0].actor.as_str(), records[0].action.as_str()), ("postgres", "skip"));
    fixture.log.close().await;
}

#[tokio::test]
async fn a_log_in_another_schema_is_operated_alike() {
    let fixture = Fixture::new().await;
    let log = EventBox::in_schema(fixture.log.pool.clone(), Schema::new("elsewhere").unwrap());
    event_box::migrate(&log).await.unwrap();
    let event = Counted { key: "k".to_owned(), n: -1 };
    log.outbox().emit(&fixture.log.pool, &event).await.unwrap();
    let consumer = Consumer::builder(&log, "g").state(fixture.mended.clone()).on(count).build().unwrap();
    let running = Running::start(consumer);
    fixture.log.wait_until("select count(*) from elsewhere.parked where dead_at is not null", 1).await;
    let group = log.group("g");
    assert_eq!(group.dead_letters().await.unwrap().len(), 1);
    let requeued = group.requeue(Selection::All).await.unwrap();
    assert_eq!(requeued.events, 1);
    fixture.log.wait_until("select count(*) from elsewhere.parked where dead_at is not null", 1).await;
    running.stop().await.unwrap();
    assert_eq!(group.skip(Selection::All).await.unwrap(), 1);
    assert_eq!(group.health().await.unwrap().dead, 0);
    group.set_mode(Mode::AllOrNothing).await.unwrap();
    assert!(group.add_topic("test.noted").await.unwrap());
    assert_eq!(group.remove_topic("test.noted").await.unwrap(), 0);
    group.pause().await.unwrap();
    assert!(log.groups().await.unwrap()[0].paused_at.is_some());
    assert!(group.remove().await.unwrap());
    assert_eq!(group.interventions(100).await.unwrap().len(), 7);
    assert_eq!(fixture.log.number("select count(*) from event_box.interventions").await, 0);
    fixture.log.close().await;
}
