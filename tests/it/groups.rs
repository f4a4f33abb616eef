use event_box::{BoxError, Consumer, Context, EventBox, GroupError, Mode, RunError};
use event_box_tests::{Counted, Noted, Running, Seen, TestLog, seen_by, wait_until_seen};

async fn count(event: Counted, cx: &mut Context<'_>) -> Result<(), BoxError> {
    Ok(Seen::note("m", &event, cx).await?)
}

async fn seeing() -> (TestLog, EventBox) {
    let log = TestLog::new().await;
    log.sql(Seen::TABLE).await;
    let handle = EventBox::from(&log.pool);
    (log, handle)
}

fn run(log: &TestLog, group: &str) -> Running {
    Running::start(Consumer::builder(&log.pool, group).on(count).build().unwrap())
}

async fn emit(log: &TestLog, key: &str, numbers: impl IntoIterator<Item = i64>) {
    for n in numbers {
        log.outbox.emit(&log.pool, &Counted { key: key.to_owned(), n }).await.unwrap();
    }
}

/// Actions with their topics, oldest first.
async fn actions(handle: &EventBox) -> Vec<(String, Option<String>)> {
    let mut records = handle.interventions(100).await.unwrap();
    records.reverse();
    records.into_iter().map(|record| (record.action, record.topic)).collect()
}

#[tokio::test]
async fn groups_are_listed_with_what_they_are() {
    let (log, handle) = seeing().await;
    assert_eq!(handle.groups().await.unwrap(), []);
    for (group, cursors) in [("second", 64), ("first", 128)] {
        let running = run(&log, group);
        log.wait_until("select count(*) from event_box.cursors", cursors).await;
        running.stop().await.unwrap();
    }
    handle.group("second").by("ann").set_mode(Mode::AllOrNothing).await.unwrap();
    handle.group("second").by("ann").set_mode(Mode::AllOrNothing).await.unwrap();
    handle.group("second").by("ann").pause().await.unwrap();
    let groups = handle.groups().await.unwrap();
    let [first, second] = &groups[..] else { panic!("{groups:#?}") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("first", "second"));
    assert_eq!((first.mode, second.mode), (Some(Mode::Transactional), Some(Mode::AllOrNothing)));
    assert_eq!(first.topics, ["test.counted"]);
    assert!(first.paused_at.is_none() && second.paused_at >= Some(second.created_at));
    assert!(first.seen_at >= first.created_at);
    let done = [("set_mode".to_owned(), None), ("pause".to_owned(), None)];
    assert_eq!(actions(&handle).await, done, "what was so already is not recorded");
    assert_eq!(handle.interventions(1).await.unwrap()[0].actor, "ann");
    log.close().await;
}

#[tokio::test]
async fn a_group_that_does_not_exist_is_named() {
    let (log, handle) = seeing().await;
    let none = handle.group("none");
    let missing = |error: GroupError| {
        assert_eq!(
            error.to_string(),
            "there is no consumer group `none`: a group is made when its consumer first runs, `EventBox::groups` lists them"
        );
    };
    missing(none.pause().await.unwrap_err());
    missing(none.resume().await.unwrap_err());
    missing(none.set_mode(Mode::Transactional).await.unwrap_err());
    missing(none.add_topic("t").await.unwrap_err());
    missing(none.remove_topic("t").await.unwrap_err());
    missing(none.health().await.unwrap_err());
    assert!(!none.remove().await.unwrap());
    assert_eq!(actions(&handle).await, []);
    log.close().await;
}

#[tokio::test]
async fn a_paused_group_is_given_nothing_until_it_is_resumed() {
    let (log, handle) = seeing().await;
    let (paused, beside) = (run(&log, "paused"), run(&log, "beside"));
    log.wait_until("select count(*) from event_box.cursors", 128).await;
    let group = handle.group("paused");
    group.pause().await.unwrap();
    group.pause().await.unwrap();
    emit(&log, "k", 1..=100).await;
    wait_until_seen(&log.pool, "beside", 100).await;
    assert_eq!(seen_by(&log.pool, "paused").await, []);
    group.resume().await.unwrap();
    group.resume().await.unwrap();
    // The half-minutely look is not waited for.
    tokio::time::timeout(std::time::Duration::from_secs(20), wait_until_seen(&log.pool, "paused", 100))
        .await
        .expect("the resumed group goes on at once");
    for running in [paused, beside] {
        running.stop().await.unwrap();
    }
    assert_eq!(seen_by(&log.pool, "paused").await, seen_by(&log.pool, "beside").await);
    assert_eq!(actions(&handle).await, [("pause".to_owned(), None), ("resume".to_owned(), None)]);
    log.close().await;
}

#[tokio::test]
async fn a_removed_topic_takes_its_parked_events_and_frees_their_keys() {
    let (log, handle) = seeing().await;
    let running = run(&log, "g");
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let group = handle.group("g").by("ann");
    assert!(group.add_topic("test.noted").await.unwrap());
    assert!(!group.add_topic("test.noted").await.unwrap());
    let noted = Noted { text: String::new() };
    log.outbox.emit(&log.pool, &noted).partition_key("k").await.unwrap();
    emit(&log, "k", 1..=2).await;
    log.wait_until("select count(*) from event_box.parked", 3).await;
    let parked = log.number("select sequence from event_box.parked where topic = 'test.noted'").await;
    tokio::time::timeout(std::time::Duration::from_secs(20), async {
        assert_eq!(group.remove_topic("test.noted").await.unwrap(), 1);
        wait_until_seen(&log.pool, "g", 2).await;
    })
    .await
    .expect("those that waited go out at once");
    // From now on it is passed over.
    log.outbox.emit(&log.pool, &noted).partition_key("k").await.unwrap();
    emit(&log, "k", 3..=3).await;
    wait_until_seen(&log.pool, "g", 3).await;
    running.stop().await.unwrap();
    assert_eq!(seen_by(&log.pool, "g").await, [("k".to_owned(), vec![1, 2, 3])]);
    assert_eq!(log.number("select count(*) from event_box.parked").await, 0);
    let error = group.remove_topic("test.noted").await.unwrap_err();
    assert!(matches!(error, GroupError::NotSubscribed { .. }), "{error:?}");
    assert!(matches!(group.add_topic("").await, Err(GroupError::Topic { .. })));
    let topic = || Some("test.noted".to_owned());
    let done =
        [("add_topic".to_owned(), topic()), ("remove_topic".to_owned(), topic()), ("remove_topic".to_owned(), topic())];
    assert_eq!(actions(&handle).await, done, "the topic itself, then its event");
    let records = group.interventions(2).await.unwrap();
    assert_eq!((records[0].sequence, records[0].partition_key.as_deref()), (Some(parked), Some("k")));
    assert_eq!(records[1].detail.as_deref(), Some("1 parked events went with it"));
    assert!(records.iter().all(|record| record.actor == "ann"));
    log.close().await;
}

#[tokio::test]
async fn an_added_topic_is_read_from_now_on() {
    let (log, handle) = seeing().await;
    let running = run(&log, "g");
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    let emit_noted =
        async || log.outbox.emit(&log.pool, &Noted { text: String::new() }).partition_key("k").await.unwrap();
    emit_noted().await;
    // The group has passed it.
    emit(&log, "k", 1..=1).await;
    wait_until_seen(&log.pool, "g", 1).await;
    assert!(handle.group("g").add_topic("test.noted").await.unwrap());
    emit_noted().await;
    log.wait_until("select count(*) from event_box.parked", 1).await;
    let last = log.number("select max(sequence) from event_box.events").await;
    assert_eq!(log.number("select sum(sequence)::bigint from event_box.parked").await, last);
    running.stop().await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn a_removed_group_leaves_nothing_but_the_record_of_it() {
    let (log, handle) = seeing().await;
    let running = run(&log, "g");
    log.wait_until("select count(*) from event_box.cursors", 64).await;
    handle.group("g").add_topic("test.noted").await.unwrap();
    log.outbox.emit(&log.pool, &Noted { text: String::new() }).await.unwrap();
    log.wait_until("select count(*) from event_box.parked", 1).await;
    log.sql("insert into event_box.starts values ('g', 0, 1, gen_random_uuid()), ('other', 0, 1, gen_random_uuid())")
        .await;
    assert!(handle.group("g").by("ann").remove().await.unwrap());
    emit(&log, "k", 1..=1).await;
    let error = running.ended().await.unwrap_err();
    assert!(matches!(error, RunError::GroupRemoved { .. }), "{error:?}");
    let left = "select (select count(*) from event_box.parked) + (select count(*) from event_box.cursors)
                     + (select count(*) from event_box.starts where group_name = 'g') + (select count(*) from event_box.consumer_groups)";
    assert_eq!(log.number(left).await, 0);
    assert_eq!(log.number("select count(*) from event_box.starts").await, 1);
    let record = handle.group("g").interventions(1).await.unwrap().remove(0);
    assert_eq!((record.actor.as_str(), record.action.as_str()), ("ann", "remove_group"));
    assert_eq!(record.detail.as_deref(), Some("1 parked events went with it"));
    log.close().await;
}
