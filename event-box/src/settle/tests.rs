use std::{sync::Arc, time::SystemTime};

use uuid::Uuid;

use super::*;
use crate::{batch::Unavailable, headers::Headers, record::Record};

fn record(sequence: i64, key: &str, topic: &str) -> Arc<Record> {
    Arc::new(Record {
        sequence,
        id: Uuid::now_v7(),
        topic: topic.to_owned(),
        version: 1,
        partition_key: (!key.is_empty()).then(|| key.to_owned()),
        payload: b"{}".to_vec(),
        headers: Headers::default(),
        emitted_at: SystemTime::now(),
    })
}

fn row(sequence: i64, key: &str) -> Row {
    Row { sequence, subscribed: true, behind: false, record: Some(record(sequence, key, "known")) }
}

fn handled(sequence: i64) -> End {
    (sequence, Outcome::Ended(Fate::Handled))
}

fn left(sequence: i64) -> End {
    (sequence, Outcome::Left)
}

fn failed(sequence: i64, key: &str) -> End {
    let parking = Parking { reason: Reason::Failed, attempts: 1, ..Parking::waiting(&record(sequence, key, "known")) };
    (sequence, Outcome::Ended(Fate::Parked(parking)))
}

fn settled(rows: &[Row], due: &[Parked], ends: Vec<End>) -> Settled {
    settle(rows, 10, due, ends, &["known".to_owned()])
}

fn parked(settled: &Settled) -> Vec<(i64, Reason)> {
    settled.parkings.iter().map(|parking| (parking.sequence, parking.reason)).collect()
}

#[test]
fn where_all_is_done_the_cursor_stands_behind_the_last_row() {
    let rows = [row(1, "a"), row(2, "b"), Row { subscribed: false, record: None, ..row(3, "") }];
    let settled = settled(&rows, &[], vec![handled(1), handled(2)]);
    assert_eq!((settled.handled, settled.next, settled.done.handled, settled.done.more), (Some(3), None, 2, false));
    assert!(settled.parkings.is_empty());
}

#[test]
fn what_was_not_begun_begins_the_next_batch() {
    let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "")];
    let settled = settled(&rows, &[], vec![handled(1), handled(2), left(3), left(4)]);
    assert_eq!((settled.handled, settled.next), (Some(2), Some(3)));
    assert!(settled.parkings.is_empty() && settled.done.out_of_time && settled.done.more);
}

#[test]
fn what_was_left_before_one_that_began_is_parked_in_the_order_of_its_key() {
    let rows = [row(1, "a"), row(2, "a"), row(3, "b"), row(4, "a"), row(5, ""), row(6, "b"), row(7, "c")];
    let ends = vec![handled(1), left(2), left(4), handled(3), left(5), handled(6), left(7)];
    let settled = settled(&rows, &[], ends);
    assert_eq!(parked(&settled), [(2, Reason::Snoozed), (4, Reason::Waiting), (5, Reason::Snoozed)]);
    assert!(settled.parkings.iter().all(|parking| parking.attempts == 0));
    assert_eq!((settled.handled, settled.next, settled.done.handled), (Some(6), Some(7), 3));
}

#[test]
fn behind_one_that_failed_its_key_waits_and_is_no_failure() {
    let rows = [row(1, "a"), row(2, "a"), row(3, "b")];
    let waiting = (2, Outcome::Ended(Fate::Parked(Parking::waiting(&record(2, "a", "known")))));
    let settled = settled(&rows, &[], vec![failed(1, "a"), waiting, handled(3)]);
    assert_eq!(parked(&settled), [(1, Reason::Failed), (2, Reason::Waiting)]);
    assert_eq!((settled.done.failures.len(), settled.next), (1, None));
}

#[test]
fn behind_a_parked_event_and_without_a_handler_nothing_is_begun_and_all_is_parked() {
    let unknown = |sequence| Row { record: Some(record(sequence, "u", "unknown")), ..row(sequence, "u") };
    let rows = [Row { behind: true, ..row(1, "a") }, unknown(2), row(3, "u"), row(4, "b")];
    let settled = settled(&rows, &[], vec![handled(4)]);
    assert_eq!(parked(&settled), [(1, Reason::Waiting), (2, Reason::NoHandler), (3, Reason::Waiting)]);
    assert_eq!((settled.handled, settled.next), (Some(4), None));
}

#[test]
fn an_outage_is_held_against_no_event() {
    let unavailable = Unavailable { sequence: 2, error: "down".to_owned(), tried_before: false, alone: false };
    let down = (2, Outcome::Ended(Fate::Unavailable(unavailable.clone())));
    let rows = [row(1, "a"), row(2, "b"), row(3, "c")];
    let ended = settled(&rows, &[], vec![handled(1), down, left(3)]);
    assert_eq!((ended.handled, ended.next, ended.done.unavailable), (Some(1), Some(2), Some(unavailable.clone())));
    assert!(ended.parkings.is_empty() && !ended.done.out_of_time);
    // One beyond it went through.
    let down = (2, Outcome::Ended(Fate::Unavailable(unavailable)));
    let beyond = settled(&rows, &[], vec![handled(1), down, handled(3)]);
    assert_eq!(parked(&beyond), [(2, Reason::Snoozed)]);
    assert_eq!((beyond.parkings[0].attempts, beyond.handled, beyond.next), (0, Some(3), None));
}

#[test]
fn the_limit_and_a_row_without_its_payload_end_the_batch() {
    let rows: Vec<_> = (1..=11).map(|sequence| row(sequence, "")).collect();
    let at_limit = settled(&rows, &[], (1..=10).map(handled).collect());
    assert_eq!((at_limit.handled, at_limit.next), (Some(10), Some(11)));
    let rows = [row(1, "a"), Row { record: None, ..row(2, "a") }];
    let at_budget = settled(&rows, &[], vec![handled(1)]);
    assert_eq!((at_budget.handled, at_budget.next), (Some(1), Some(2)));
}

#[test]
fn retries_are_cleared_parked_again_or_left_as_they_are() {
    let due = |sequence, key: &str| Parked {
        sequence,
        partition_key: Some(key.to_owned()),
        record: Some(record(sequence, key, "known")),
        tries: Tries { attempts: 1, deaths: 0 },
        ready: true,
    };
    let deleted = Parked { record: None, ..due(9, "gone") };
    let dead = failed(3, "c");
    let (3, Outcome::Ended(Fate::Parked(parking))) = dead else { unreachable!() };
    let dead = (3, Outcome::Ended(Fate::Parked(Parking { dead: true, ..parking })));
    let all = [due(1, "a"), due(2, "b"), due(3, "c"), due(4, "d"), deleted];
    let settled = settled(&[], &all, vec![handled(1), failed(2, "b"), dead, left(4)]);
    assert_eq!(settled.cleared, [1, 9]);
    assert_eq!(parked(&settled), [(2, Reason::Failed), (3, Reason::Failed)]);
    assert_eq!(settled.keys, ["a", "c", "gone"], "those whose key goes on");
    assert!(settled.done.more && settled.handled.is_none());
}
