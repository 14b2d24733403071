//! The queue between commits and relay.

use eticket_bus::Message;

use super::*;

const LIMITS: Limits = Limits { rows: 10, page: 3, newest: 2 };

fn row(id: i64, subject: &str, revision: i64) -> WaitingRow {
    let message = Message { subject: subject.to_owned(), ..Message::default() };
    WaitingRow { id, revision, message, was_read: false }
}

fn rows(ids: std::ops::RangeInclusive<i64>) -> Vec<WaitingRow> {
    ids.map(|id| row(id, &format!("s{id}"), 1)).collect()
}

fn handover() -> Arc<Handover> {
    Arc::new(Handover::new(LIMITS))
}

fn ids(claim: &Claim) -> Vec<i64> {
    claim.subjects.iter().flatten().map(|row| row.id).collect()
}

/// Claims rows, which are published and deleted.
fn done(handover: &Arc<Handover>, most: usize) -> Vec<i64> {
    let claim = handover.claim(most);
    let ids = ids(&claim);
    let mut sent = claim.sent(&ids);
    sent.deleted(sent.ids());
    ids
}

#[test]
fn a_claim_has_all_rows_of_its_subjects_in_the_order_of_revisions() {
    let handover = handover();
    handover.add(vec![row(1, "a", 2), row(2, "b", 1), row(3, "c", 1)]);
    handover.add(vec![row(4, "a", 1)]);
    assert_eq!(done(&handover, 2), [4, 1, 2]);
    assert_eq!(done(&handover, 2), [3]);
}

#[test]
fn older_rows_of_a_subject_are_superseded_by_the_newest() {
    let handover = handover();
    handover.add((1..=5).map(|id| row(id, "a", id)).collect());
    let claim = handover.claim(10);
    assert_eq!(ids(&claim), [4, 5]);
    let sent = claim.sent(&[4]);
    assert_eq!(sent.ids(), [1, 2, 3, 4]);
    assert_eq!(handover.begin_read(), Some(4), "the newest is read again");
}

#[test]
fn older_rows_stay_until_a_newer_one_is_on_the_stream() {
    let handover = handover();
    handover.add((1..=5).map(|id| row(id, "a", id)).collect());
    assert_eq!(handover.claim(10).sent(&[]).ids(), [0; 0]);
    assert_eq!(handover.begin_read(), Some(0));
}

#[test]
fn rows_above_the_limit_are_read_from_the_table() {
    let handover = handover();
    handover.add(rows(1..=10));
    handover.add(rows(11..=12));
    handover.add(rows(13..=14));
    assert_eq!(handover.begin_read(), None, "those in memory come first");
    assert_eq!(done(&handover, 99).len(), 10);
    assert_eq!(handover.begin_read(), Some(10));
    handover.end_read(rows(11..=13));
    assert_eq!(done(&handover, 99), [11, 12, 13]);
    assert_eq!(handover.begin_read(), Some(13));
    handover.end_read(rows(14..=14));
    handover.add(rows(15..=15));
    assert_eq!((done(&handover, 99), handover.begin_read()), (vec![14, 15], None));
}

#[test]
fn a_row_that_is_committed_during_a_read_is_read_next_wherever_its_id_is() {
    let handover = handover();
    handover.also_read_above(5);
    assert_eq!(handover.begin_read(), Some(5));
    // The transaction of row 8 was open while row 1000 of another process was adopted.
    handover.add(rows(8..=8));
    handover.end_read(vec![row(6, "a", 1), row(1000, "b", 1)]);
    assert_eq!((done(&handover, 99), handover.begin_read()), (vec![6, 8, 1000], None));
}

#[test]
fn a_row_that_is_committed_during_the_read_of_a_full_page_is_read_next() {
    let handover = handover();
    handover.also_read_above(5);
    assert_eq!(handover.begin_read(), Some(5));
    handover.add(rows(8..=8));
    handover.end_read(vec![row(6, "a", 1), row(7, "b", 1), row(1000, "c", 1)]);
    assert_eq!(done(&handover, 99), [6, 7, 1000]);
    assert_eq!(handover.begin_read(), Some(7));
    // A commit whose outcome is unknown: the read of the page counts as one of before it.
    handover.add(rows(9..=9));
    handover.also_read_above(20);
    handover.end_read(vec![]);
    assert_eq!(handover.begin_read(), Some(7));
}

#[test]
fn rows_that_were_given_back_are_read_again_with_all_above_them() {
    let handover = handover();
    handover.add(rows(1..=3));
    drop(handover.claim(2).sent(&[1]));
    assert_eq!(handover.begin_read(), Some(0), "row 1 was not deleted");
    // Given back during the read: what it finds may be outdated.
    handover.also_read_above(-1);
    handover.end_read(rows(2..=3));
    assert_eq!((done(&handover, 9), handover.begin_read()), (vec![], Some(-1)));
}

#[test]
fn a_row_below_those_that_were_given_back_is_not_forgotten() {
    let handover = handover();
    handover.adopt(rows(1000..=1000));
    drop(handover.claim(1));
    // Its transaction was open meanwhile.
    handover.add(rows(990..=990));
    assert_eq!(handover.begin_read(), Some(989));
}

#[test]
fn rows_that_are_on_their_way_are_not_claimed_again() {
    let handover = handover();
    handover.add(rows(1..=2));
    let claim = handover.claim(1);
    let mut sent = handover.claim(1).sent(&[2]);
    handover.also_read_above(0);
    assert_eq!(handover.waiting(), Waiting { known: 1, lowest: Some(1), unread_above: Some(0), known_above: 2 });
    assert_eq!(handover.begin_read(), Some(0));
    handover.end_read(rows(1..=3));
    assert_eq!(handover.waiting(), Waiting { known: 2, lowest: Some(1), unread_above: Some(3), known_above: 0 });
    assert_eq!(done(&handover, 9), [3]);
    sent.deleted([2]);
    drop((claim, sent));
    assert_eq!(handover.waiting(), Waiting { known: 0, lowest: None, unread_above: Some(0), known_above: 0 });
}
